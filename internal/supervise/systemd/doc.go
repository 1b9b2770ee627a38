// Package systemd is the supervisor for machines on which systemd is process 1: every
// process that Tenure starts is that of a real unit, which systemctl(1) shows and stops.
//
// It is two things in one. What becomes of a unit is decided by package native, which is one
// supervisor for both: its actors, its records, its law. How a process comes to be, and whose
// child and in whose control group it is, is the business of a Host (native.Host), and the one here asks systemd:
//
//	a service     SNAP.NAME.APP.3.service, with the alias SNAP.NAME.APP.service
//	a workload    SNAP.NAME.APP:WORKLOAD.PID.1.scope
//	an app run    SNAP.NAME.APP::PID.1.scope
//	hooks, commands, workloads that a service starts by name: transient services
//	declared sockets, timers: SNAP.NAME.APP.sHASH.socket, .tHASH.timer
//	all of a snap SNAP-NAME.slice
//
// What always holds, beyond the contract of package supervise:
//
//   - A unit file is written for one Spec and not changed into that of another revision: its
//     number is part of its name. So a process that is told to end by hand is told by
//     the settings that it was started with, and two generations can run side by side.
//   - The alias is the name of the generation that is the service. To move it systemd has to
//     reload, which happens once for a refresh, and after it.
//   - systemd itself signals main processes only. What else there is in a service is set apart
//     or ended by Tenure, before (ExecStop=) or after.
//   - systemd starts a service without this package too: when the machine boots, when an
//     administrator says so, or when it has crashed while nobody else looked.
//
// # How a service starts
//
// ExecStart= is this program again (Main). It asks the supervisor what to become, by a socket
// on which descriptors can be passed, and becomes it: systemd's main process
// is the service's own from the first instruction on. Where no supervisor answers it becomes what the
// file beside the unit file says (Spec), and speaks to systemd as any service does.
package systemd
