// Package powercut is a file system that keeps what is done to it, in order, and makes of it
// the states that a power cut may leave.
//
// A Disk is in memory, and the kernel reaches it by FUSE. What has been done to it is its Log, and each Cut
// of that is another Disk, with the same inode numbers, that can be mounted, recorded and cut again. What was
// waited for before a cut is always in it; what else may be is said by a Model.
//
// A Disk may be used by many at once. Memory that shows a file of one must not be touched in the
// process that serves it: whoever waits for a page there cannot serve it.
package powercut
