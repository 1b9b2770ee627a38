package change

// Phase is a moment in the life of a step.
type Phase string

// The phases, in the order in which a step passes them.
const (
	// GapBegin: the intent of a whole gap is durable; nothing of it has begun.
	GapBegin Phase = "gap-begin"
	// BeforeProbe and AfterProbe surround Probe.
	BeforeProbe Phase = "before-probe"
	AfterProbe  Phase = "after-probe"
	// BeforeDo and AfterDo surround Do. Nothing of what Do returned is kept yet.
	BeforeDo Phase = "before-do"
	AfterDo  Phase = "after-do"
	// GapEnd: the last step of the gap has ended; nothing of the gap is durable
	// but its intent.
	GapEnd Phase = "gap-end"
	// Durable: the result of a Do or an Undo, and the intent of the next step,
	// have been written.
	Durable Phase = "durable"
	// BeforeUndo and AfterUndo surround Undo.
	BeforeUndo Phase = "before-undo"
	AfterUndo  Phase = "after-undo"
)

// Point is a place between two instructions where the process may die.
type Point struct {
	Change     ID
	ChangeKind string
	// Task is the index of the task, from 0, and TaskKind its kind.
	Task     int
	TaskKind string
	// Gap is set if the task is part of a gap.
	Gap   bool
	Phase Phase
}

func (e *Engine) boundary(r *run, task int, phase Phase) {
	if e.cfg.Boundary == nil {
		return
	}
	t := &r.c.Tasks[task]
	e.cfg.Boundary(Point{
		Change: r.c.ID, ChangeKind: r.c.Kind,
		Task: task, TaskKind: t.Kind, Gap: t.Gap, Phase: phase,
	})
}
