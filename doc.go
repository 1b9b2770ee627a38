// Package tenure holds the words that every package of Tenure speaks: snaps
// and their revisions, units and processes, reasons and verdicts.
//
// It does nothing. Every type in it is a value that can be compared, printed
// and stored, and whose text form is the same on the command line, in the API
// and in the journal.
package tenure
