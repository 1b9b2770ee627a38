// Package supervisetest has the law that every supervisor passes, and Twin, a
// supervisor in memory that passes it too.
//
// What a packaged program does is data here (Program). For supervisors of
// real processes it is carried out by RunProgram in the test binary, executed
// again; the Twin interprets it. Both find it in the command line, so the same
// Spec means the same to both.
//
// What always holds: nothing waits for a time to pass where there is an event
// to wait for, so that the law is as fast as what it tests, and the Twin can be
// used in a testing/synctest bubble. All parts of the law may run concurrently.
package supervisetest
