// Package fdstore keeps what must survive the sudden death of the daemon: kept
// descriptors, declared sockets, notify sockets, and the reading ends of logs.
//
// They are held by the holder, a process of its own that runs Serve and almost
// never changes. The daemon talks to it with a Client, which has duplicates of
// everything, so that either of both may be killed at any moment: a new client
// gets everything from the holder, and a new holder from the client.
//
// What always holds:
//
//   - A descriptor that was put is open in the holder, or in the client that
//     is about to start the next holder, until it is removed by name.
//   - No writer to a log ever gets EPIPE, and none waits for another's log: a
//     service that writes faster than its log can be written waits itself, in
//     write(2), and the memory that the holder uses does not grow.
//   - There is at most one holder for a socket that answers requests and writes logs.
//     Starting another is a hand-over: the successor gets everything, half
//     lines included, and the old one then exits without another write.
//   - The holder exits by itself when it holds nothing, no log is open and no client
//     is connected; and otherwise only after a hand-over.
//
// Any number of clients may be connected, and all methods of Client may be called
// concurrently.
//
// # Protocol
//
// Packets on a unix socket of type SOCK_SEQPACKET, each one frame with at most
// one descriptor, or a bundle of frames with one for each. Only the holder's own user and root may connect.
//
//	client                      holder
//	hello                    →  ok(store)
//	put(unit kind name) +fd  →  ok
//	log(unit stream) +fd     →  ok                … ended(stream), at any later time
//	remove(unit kind names)  →  ok
//	get(unit)                →  item +fd …, end
//	drop logs(snap)          →  ok
//	list                     →  item …, end
//	sync                     →  item +fd …, stream +fd …, end; to who asks with bundles: bundle(item …) +fd …, …, end
//	handover                 →  listener +fd, item +fd …, stream +fd with half a line …, end
//	commit                   →  (exits)
//
// Any request may be answered by error. The name of the store in ok is made by the first
// holder and handed over with the rest, so that a client sees whether the
// holder that it finds is the successor of the one it knew, or a fresh one that
// has to be filled.
package fdstore
