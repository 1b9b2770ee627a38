package sysbus

import (
	"fmt"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"tenure"
)

// Names of polkit's on the bus, and where a person's agent is found.
const (
	polkit    = "org.freedesktop.PolicyKit1"
	authority = "/org/freedesktop/PolicyKit1/Authority"
	agent     = dbus.ObjectPath("/agent")
)

// patience is for what comes as soon as the machine has time.
const patience = time.Minute

// Person sits at a process, as polkit's agent, and is asked about it.
type Person struct {
	tb    testing.TB
	conn  *dbus.Conn
	asked chan *Question
}

// Question is one that a person is asked. One of Know and Dismiss ends it, unless it is
// taken back.
type Question struct {
	person *Person
	// Action and Message are what it is about, and how it is put.
	Action, Message string

	cookie     string
	identities []identity
	answer     chan *dbus.Error
	taken      chan struct{}
}

// identity is one that a person can prove to be, in polkit's words.
type identity struct {
	Kind    string
	Details map[string]dbus.Variant
}

// Sit has a person sit at a process of a user.
func Sit(tb testing.TB, address string, process tenure.Process, uid uint32) *Person {
	tb.Helper()
	p := &Person{tb: tb, conn: Connect(tb, address), asked: make(chan *Question, 1)}
	if err := p.conn.Export(&agentObject{person: p, open: make(chan *Question, 1)}, agent, polkit+".AuthenticationAgent"); err != nil {
		tb.Fatal(err)
	}
	subject := identity{"unix-process", map[string]dbus.Variant{
		"pid":        dbus.MakeVariant(uint32(process.PID)), //nolint:gosec // A pid.
		"start-time": dbus.MakeVariant(process.Start),
		"uid":        dbus.MakeVariant(int32(uid)), //nolint:gosec // A small number.
	}}
	call := p.conn.Object(polkit, authority).CallWithContext(tb.Context(), polkit+".Authority.RegisterAuthenticationAgent", 0, subject, "C", string(agent))
	if call.Err != nil {
		tb.Fatalf("sit at %v: %v", process, call.Err)
	}
	return p
}

// Asked waits for a question.
func (p *Person) Asked() *Question {
	p.tb.Helper()
	select {
	case q := <-p.asked:
		return q
	case <-time.After(patience):
		p.tb.Fatal("the person is asked nothing")
		return nil
	}
}

// Unasked fails the test if there is a question.
func (p *Person) Unasked() {
	p.tb.Helper()
	select {
	case q := <-p.asked:
		p.tb.Fatalf("the person is asked %q", q.Message)
	default:
	}
}

// Know answers with the right password, as polkit's helper does once it has checked it: as
// root, and for the user who sat down, who is root as well.
func (q *Question) Know() {
	p := q.person
	p.tb.Helper()
	const root uint32 = 0
	call := p.conn.Object(polkit, authority).CallWithContext(p.tb.Context(), polkit+".Authority.AuthenticationAgentResponse2", 0,
		root, q.cookie, q.identities[0])
	if call.Err != nil {
		p.tb.Fatalf("answer %q: %v", q.Message, call.Err)
	}
	q.answer <- nil
}

// Dismiss closes the question without an answer.
func (q *Question) Dismiss() {
	q.answer <- dbus.NewError(polkit+".Error.Cancelled", []any{"dismissed"})
}

// TakenBack waits until nobody wants to know any more.
func (q *Question) TakenBack() {
	q.person.tb.Helper()
	select {
	case <-q.taken:
	case <-time.After(patience):
		q.person.tb.Fatalf("the question %q stays", q.Message)
	}
}

// agentObject is what polkit calls: org.freedesktop.PolicyKit1.AuthenticationAgent.
type agentObject struct {
	person *Person
	// open has the question that a person is asked.
	open chan *Question
}

// BeginAuthentication asks, and returns when it is answered.
func (a *agentObject) BeginAuthentication( //nolint:revive // It has the arguments that polkit gives.
	action, message, _ string, _ map[string]string, cookie string, identities []identity,
) *dbus.Error {
	q := &Question{
		person: a.person, Action: action, Message: message, cookie: cookie, identities: identities,
		answer: make(chan *dbus.Error, 1), taken: make(chan struct{}),
	}
	a.open <- q
	a.person.asked <- q
	select {
	case err := <-q.answer:
		<-a.open
		return err
	case <-q.taken:
		return dbus.NewError(polkit+".Error.Cancelled", []any{"taken back"})
	case <-a.person.tb.Context().Done():
		return dbus.MakeFailedError(fmt.Errorf("the test is over: %w", a.person.tb.Context().Err()))
	}
}

// CancelAuthentication takes the question back that is open.
func (a *agentObject) CancelAuthentication(cookie string) *dbus.Error {
	select {
	case q := <-a.open:
		if q.cookie == cookie {
			close(q.taken)
		}
	default:
	}
	return nil
}
