package rules

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// The bounds of a condition.
const (
	maxDepth   = 24
	maxNodes   = 2000
	maxNesting = 2
	// maxPattern bounds the program that a regular expression becomes, in instructions.
	maxPattern = 1000
	// maxCost bounds one evaluation, and maxTotal all those of one decision, in CEL's
	// steps: 100,000 take some 15 ms.
	maxCost  = 100_000
	maxTotal = 1_000_000
)

// compiler makes conditions of text.
type compiler struct {
	env   *cel.Env
	words map[string]map[string]field
}

// condition is a condition that has been checked.
type condition struct {
	env     *cel.Env
	ast     *cel.Ast
	program cel.Program
	// units is that it speaks of units, changes that it speaks of the change, updates that
	// it speaks of what that leads to, varies that what it says can change by itself, as
	// time passes or as processes come and go.
	units, changes, updates, varies bool
}

// mistake is what is wrong with a condition, at a place in its text; both count from 1.
type mistake struct {
	line, column    int
	found, accepted string
}

func newCompiler() (*compiler, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("make the types of conditions: %w", err)
	}
	words := vocabulary()
	options := []cel.EnvOption{
		cel.StdLib(), cel.CustomTypeAdapter(registry), cel.CustomTypeProvider(provider{registry, words}),
		cel.ParserRecursionLimit(maxDepth), cel.ParserExpressionSizeLimit(maxWhen), cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxPattern), cel.DefaultUTCTimeZone(true), cel.EnableMacroCallTracking(),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateComprehensionNestingLimit(maxNesting)),
		cel.Variable("now", cel.TimestampType),
		cel.Function("days", cel.Overload("days_int", []*cel.Type{cel.IntType}, cel.DurationType, cel.UnaryBinding(days))),
	}
	for name := range words {
		options = append(options, cel.Variable(name, cel.ObjectType(name)))
	}
	env, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("make the language of conditions: %w", err)
	}
	return &compiler{env, words}, nil
}

// days is a number of days as a duration, which CEL writes in hours at most.
func days(n ref.Val) ref.Val {
	const most = 36500
	count, ok := n.(types.Int)
	if !ok || count < -most || count > most {
		return types.NewErr("days takes a number up to %d", most)
	}
	return types.Duration{Duration: time.Duration(count) * 24 * time.Hour}
}

// compile checks the text of a condition.
func (c *compiler) compile(text string) (*condition, []mistake) {
	checked, issues := c.env.Compile(text)
	if issues.Err() != nil {
		return nil, c.mistakes(text, issues.Errors())
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, []mistake{{1, 1, "the condition is of type " + strings.ToLower(strings.TrimPrefix(out.String(), "google.protobuf.")), "a condition that is true or false"}}
	}
	native := checked.NativeRep()
	if found := c.lint(native); len(found) > 0 {
		return nil, found
	}
	program, err := c.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxCost))
	if err != nil {
		return nil, []mistake{{1, 1, err.Error(), ""}}
	}
	spoken := names(native.Expr())
	speaks := func(name string) bool { return spoken[name] }
	return &condition{
		env: c.env, ast: checked, program: program,
		units:   slices.ContainsFunc(unitVariables(), speaks),
		changes: speaks(typeChange),
		updates: speaks(typeUpdate),
		varies:  speaks("now") || speaks(typeProcess) || reads(native.Expr(), "age", "memory", "processes"),
	}, nil
}

// names are those that an expression speaks of.
func names(expr ast.Expr) map[string]bool {
	all := map[string]bool{}
	ast.PreOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind {
			all[e.AsIdent()] = true
		}
	}))
	return all
}

// reads reports whether an expression reads a field of one of these names.
func reads(expr ast.Expr, fields ...string) bool {
	found := false
	ast.PreOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		found = found || e.Kind() == ast.SelectKind && slices.Contains(fields, e.AsSelect().FieldName())
	}))
	return found
}

// mistakes words what CEL has found wrong.
func (c *compiler) mistakes(text string, found []*common.Error) []mistake {
	const most = 3
	var all []mistake
	for _, e := range found[:min(len(found), most)] {
		m := mistake{line: e.Location.Line(), column: e.Location.Column() + 1}
		m.found, m.accepted = c.word(text, e.Message)
		all = append(all, m)
	}
	return all
}

// word puts a message of CEL in our words, with what could stand there.
func (c *compiler) word(text, message string) (found, accepted string) {
	if parts := regexp.MustCompile(`^undefined field '(.*)'$`).FindStringSubmatch(message); parts != nil {
		found = "unknown field " + quote(parts[1])
		before := regexp.MustCompile(`(\w+)\.` + regexp.QuoteMeta(parts[1]) + `\b`).FindStringSubmatch(text)
		if before != nil && c.words[before[1]] != nil {
			return found, fmt.Sprintf("of %s: %s", before[1], namesOf(c.words, before[1]))
		}
		return found, ""
	}
	if parts := regexp.MustCompile(`^undeclared reference to '(.*?)'`).FindStringSubmatch(message); parts != nil {
		return "unknown name " + quote(parts[1]), strings.Join(c.variables(), ", ") + `; text stands in quotes`
	}
	if rest, ok := strings.CutPrefix(message, "found no matching overload for "); ok {
		return "these types do not go together: " + rest, ""
	}
	switch message {
	case "invalid matches argument":
		return "it is no pattern, or too large a one", "a regular expression of RE2"
	case "invalid duration argument":
		return "it is no duration", `duration("90s"), duration("1h30m"), days(7)`
	case "invalid timestamp argument":
		return "it is no time", `timestamp("2026-11-26T09:00:00Z")`
	}
	if rest, ok := strings.CutPrefix(message, "Syntax error: "); ok {
		rest, _, _ = strings.Cut(rest, " expecting ")
		return "it is no condition: " + rest, ""
	}
	return strings.ReplaceAll(message, "\n", " "), ""
}

func (c *compiler) variables() []string {
	return slices.Sorted(maps.Keys(maps.Collect(func(yield func(string, bool) bool) {
		for name := range c.words {
			if !yield(name, true) {
				return
			}
		}
		yield("now", true)
	})))
}

// lint finds what is well typed and cannot be meant: a word that a fact never has, and
// a pattern that is only known when it is used, so that nobody has checked it.
func (c *compiler) lint(checked *ast.AST) []mistake {
	var found []mistake
	at := func(e ast.Expr, text, accepted string) {
		location := checked.SourceInfo().GetStartLocation(e.ID())
		found = append(found, mistake{location.Line(), location.Column() + 1, text, accepted})
	}
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		args := call.Args()
		switch call.FunctionName() {
		case "matches":
			if args[len(args)-1].Kind() != ast.LiteralKind {
				at(args[len(args)-1], "a pattern that is made when it is used", "a pattern as text in quotes")
			}
		case operators.Equals, operators.NotEquals, operators.In, operators.OldIn:
			for i, arg := range args {
				words := c.wordsOf(checked, arg)
				for _, literal := range literals(args[1-i]) {
					if text, ok := literal.AsLiteral().(types.String); ok && words != nil && !slices.Contains(words, string(text)) {
						at(literal, "it is never "+quote(string(text)), strings.TrimPrefix(strings.Join(words, ", "), ", "))
					}
				}
			}
		}
	}))
	return found
}

// wordsOf are the values that a fact can have; nil where there is no such fact, or
// its values are not a closed set.
func (c *compiler) wordsOf(checked *ast.AST, e ast.Expr) []string {
	if e.Kind() != ast.SelectKind {
		return nil
	}
	sel := e.AsSelect()
	return c.words[checked.GetType(sel.Operand().ID()).TypeName()][sel.FieldName()].words
}

// literals are e, or what is in the list e.
func literals(e ast.Expr) []ast.Expr {
	list := []ast.Expr{e}
	if e.Kind() == ast.ListKind {
		list = e.AsList().Elements()
	}
	return slices.DeleteFunc(slices.Clone(list), func(e ast.Expr) bool { return e.Kind() != ast.LiteralKind })
}

// failure words why a condition cannot be evaluated.
func failure(err error) (text string, missing bool) {
	if fact, ok := errors.AsType[*absentError](err); ok {
		return fact.Error(), true
	}
	text = strings.ReplaceAll(err.Error(), "\n", " ")
	if strings.Contains(text, "cost limit exceeded") {
		return "it takes too many steps", false
	}
	return text, false
}
