// Package journal is the only package that knows how state is stored: in one
// bbolt file, state.db, and what has happened in the files of a History beside it.
//
// Always true: what a method has returned from is on disk, whole; a reader
// sees all of an Update or nothing of it. A file that a newer version wrote is refused before
// anything in it is modified. One that cannot be read is never modified or deleted: it is kept
// as state.db.damaged-TIME, and the newest good backup takes its place (Recovery).
//
// The schema, version 4. ◀ is a bucket, numbers are 8 bytes, big-endian, and before the JSON of each value
// is the CRC-32C of its place, its key and it, in 4 bytes:
//
//	meta ◀
//	    version           : number        the schema's; a file without meta is new
//	    totals            : 5 numbers     of all below sealed: see totals. Who does not know of them may write
//	sealed ◀
//	    changes ◀                         its sequence is the highest ID ever put
//	        ID number         : JSON      change.Change; while it has not ended, without these:
//	    parts ◀                           apart, for a change of many snaps is long
//	        ID number ◀                   those of a change that has not ended
//	            plan, details : JSON
//	            task number   : JSON      change.Task, in the order of the numbers
//	    documents ◀
//	        COLLECTION ◀                  "snaps", "settings", ...: see NewCollection
//	            key text      : JSON      what the collection's owner keeps
//	reserve ◀                             there for a moment only: see refill
//
// A file of an older version is migrated when it is opened, in one transaction, and backed up before, as state.db.bak.schema3 where
// it was of version 3: no later backup takes the place of that.
// What was written is in state.db.bak soon after, though not while services wait in a gap, and
// state.db.bak.1 is older by up to two days.
// The version goes up with whatever a release writes, here or elsewhere, that the one before would misread.
//
// While another program is to take over, a copy is there as state.db.before-upgrade (Keep). It
// goes before the first write, so that it can be put back as long as it is there.
//
// Any number of goroutines may use a DB. Readers never wait for writers; one
// writer runs at a time, and its commit waits for the disk (about 0.3 ms).
// Inside Update and View only the Tx may be used: a method of the DB, or of a
// Collection, that writes would wait for itself.
package journal
