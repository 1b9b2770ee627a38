// Package native is the supervisor that is built in: control groups version 2,
// processes born in their group, pidfds, no polling. It is what runs where
// systemd is not process 1, and in a private root.
//
// What always holds, beyond the contract of package supervise:
//
//   - What a unit is about to do is in its record before it is done, so that
//     the next supervisor finds every process that this one has started,
//     whenever this one dies. A record is valid for one boot.
//   - A control group is used for one launch and never again.
//   - A process that is to be kept is in a group of its own, or promised to one
//     in a record while it is frozen, before anything is signalled.
//
// One goroutine per unit (the actor, unit.go) owns the unit's state. Everything
// else sends it messages: requests, ends of processes, notifications. It never
// waits for a process; what lasts is a phase of the state machine with an alarm:
//
//	start.go    Start → armed or launched → ready          launch.go   one launch
//	stop.go     command → signal → kill → post-stop        classify.go who is who
//	split.go    workloads and leftovers become units       restart.go  whether, when
//	nursery.go  workloads are heard of when they start     kin.go      what joins them
//	adopt.go    what the last supervisor left              record.go   what it wrote
//	prepare.go  what is made ahead of a launch             aftermath.go what waits for it
//	common.go   what units are alike in
//	terms.go    whether SIGKILL may follow, where no request says so
//
// # What a unit leaves behind
//
// With supervise.TargetMain, whatever lives when the main process has ended
// becomes the unit "leftover" where it is: the unit's old group becomes the
// leftover's, and the next launch has a new one. Nothing needs to be moved.
//
// Groups that a service made below its own (container payloads) are never left
// by the processes in them. With TargetMain they live through a refresh, as
// part of the leftover. With TargetGroup they are ended with the unit, unless a
// workload's pattern matches one of their processes or an ancestor of it: then
// the whole group is that workload's ("claimed"). The service's empty
// group remains as a directory around it until the workload ends.
//
// # Workloads that are known early
//
// While a service with patterns runs, the kernel tells which processes become other
// programs (proc.Births). One that matches, and has lived for
// Config.Settle, is set apart by the same split under freeze as at a stop. Where
// it does not, and for what changes its command line by itself, the
// split comes with the stop.
//
// # Ends that nobody saw
//
// A main process that ended while no supervisor ran has an unknown exit. It
// counts as a failure for restart conditions on which failures count
// (on-failure, on-abnormal, always), and not as clean.
//
// # A start that fails
//
// Start returns the first failure, and the unit is restarted as its policy
// says nevertheless (as systemd does); Stop ends that.
//
// # A stop that times out
//
// The terms of an end that nobody has asked for come from Config.Terms (terms.go).
// With KillNever the error is supervise.ErrStopTimeout. If the main process
// lives the unit is Running again, but it has been told: when it ends, it is not
// restarted, unless Start was called for it meanwhile; then it is at once.
package native
