// Package handover is for services that are to lose nothing when their package is
// refreshed: the next generation of such a service starts beside the one that
// runs, with the same listening sockets, and the old one answers what it has.
//
// Passing the sockets is not enough. The connection that a server accepts in the
// instant before it shuts down is lost, and so is the request that a client
// sends just when the connection that it keeps is closed. Serve therefore goes
// in this order when it is told to end:
//
//  1. It stops accepting, by a deadline on each listener, and lets every accept
//     loop end: what was accepted is being served, what was not stays in the queue
//     of the socket, for the next generation.
//  2. From now on each answer says "Connection: close".
//  3. It waits until no connection is open.
//  4. Then it shuts down.
//
// What always holds: a connection that this process has accepted is served by it.
//
// A package asks for this in its snap.yaml; "sockets" are opened by the supervisor,
// and passed to both generations:
//
//	apps:
//	  web:
//	    command: bin/web
//	    daemon: notify
//	    sockets:
//	      http: {listen-stream: $SNAP_COMMON/web.sock}
//	    lifecycle:
//	      refresh: handover
//	      drain-timeout: 5m
//
// The supervisor does the rest: it waits for READY=1, makes the new revision the
// current one, sends the old process SIGTERM, and SIGKILL when drain-timeout is
// over. A new process that does not get ready is ended, and the old one never hears
// of it. Sockets below $SNAP_DATA are those of one revision; let them be below
// $SNAP_COMMON.
//
// What a process does before it ends may depend on why it is to: a draining one that is to
// give way to its successor can take its time, and one that is to go with its package has
// nobody to leave its work to. The word is in the file that SNAP_LIFECYCLE_REASON_FILE names
// before the signal is sent (refresh, revert, restart, stop, disable, remove or
// shutdown), and "snapctl reason" prints it.
//
// Nothing here depends on Tenure: it is the protocol of sd_listen_fds(3) and
// sd_notify(3), and the package imports the standard library alone.
package handover
