// Package logfile writes and reads the logs of units.
//
// The log of a unit is a directory of segments with increasing numbers, which
// are never used again while the directory exists. Only the newest is
// written to; the oldest are deleted when all together get too large.
//
//	LOGS/virt.virtd/00000017.log
//	LOGS/virt.virtd/00000018.log
//	LOGS/virt.virtd+vm.4711/00000001.log
//
// A line is time, pid and text, separated by single spaces:
//
//	2026-11-24T00:14:09.123456789Z 4711 the text, byte by byte, also \x00
//	2026-11-24T00:14:09.123456789Z 4711+ text that no newline followed
//
// The time has always 30 bytes. The plus sign says that the text was cut: it was longer
// than MaxText, another process wrote in the middle of it, or its writer ended; the
// next line of that stream goes on where it stopped. Pid 0 is this package itself, which tells
// what is missing.
//
// What always holds: a line that is followed by its newline in a segment never
// changes, and nothing is appended to a segment when there is a newer one. So
// readers need no lock, and a reader that keeps up never loses a line.
//
// A Writer is safe for concurrent use, one Writer per unit at a time. Any number
// of readers may read.
package logfile
