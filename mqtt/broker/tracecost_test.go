package broker

import (
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"path/filepath"
	"strings"
	"testing"
)

// traced finds the calls that trace a packet, and says of each whether it is within `if list := ….traces.now.Load(); list != nil`: then a
// packet that nobody traces costs that one load.
func traced(file *ast.File) (guarded, bare int) {
	var inside []ast.Node // the guards that the walk is within
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.IfStmt:
			if set, ok := n.Init.(*ast.AssignStmt); ok && strings.HasSuffix(path(set.Rhs[0]), "traces.now.Load") {
				inside = append(inside, n.Body)
			}
		case *ast.CallExpr:
			name := path(n.Fun)
			if i := strings.LastIndexByte(name, '.'); strings.HasPrefix(name[i+1:], "trace") {
				within := false
				for _, g := range inside {
					within = within || n.Pos() >= g.Pos() && n.End() <= g.End()
				}
				if within {
					guarded++
				} else {
					bare++
				}
			}
		}
		return true
	})
	return guarded, bare
}

func path(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.CallExpr:
		return path(e.Fun)
	case *ast.SelectorExpr:
		return path(e.X) + "." + e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// While nobody traces, a packet costs one load of a pointer.
func TestTracesCostOneLoad(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") || name == "trace.go" {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		guarded, bare := traced(f)
		if total += guarded; bare > 0 {
			t.Errorf("%s traces without asking first whether anybody does", name)
		}
	}
	if total < 7 {
		t.Errorf("only %d places trace", total)
	}
	b := &Broker{}
	least := math.Inf(1) // brokers of earlier tests may still be ending, and what they allocate is counted too
	for range 20 {
		least = min(least, testing.AllocsPerRun(100, func() {
			if list := b.traces.now.Load(); list != nil {
				t.Error("somebody traces")
			}
		}))
	}
	if least != 0 {
		t.Errorf("%v allocations", least)
	}
}

// The check sees a packet that is traced in any case.
func TestTracesCostOneLoadIsSeen(t *testing.T) {
	for text, want := range map[string][2]int{
		"c.traceIn(nil, p)": {0, 1},
		"if list := c.b.traces.now.Load(); list != nil { c.traceIn(*list, p) }":                     {1, 0},
		"if list := c.b.traces.now.Load(); list != nil { c.traceIn(*list, p) }; c.trace(list, nil)": {1, 1},
		"if list := other.Load(); list != nil { c.traceOut(*list, p) }":                             {0, 1},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\nfunc f() {\n"+text+"\n}", 0)
		if err != nil {
			t.Fatal(err)
		}
		if guarded, bare := traced(f); [2]int{guarded, bare} != want {
			t.Errorf("%s: %d guarded, %d bare", text, guarded, bare)
		}
	}
}

// What was taken of a trace is its reader's: the trace does not hold it any longer, beside as much that is new.
func TestTakenIsLetGo(t *testing.T) {
	b := &Broker{o: Options{}.withDefaults()}
	tr, err := b.Trace(TraceOptions{Filter: "#"})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for range 3 {
		tr.put(TraceEvent{Topic: "t"}, nil)
	}
	held := tr.waiting
	if got := tr.Take(2); len(got) != 2 || got[1].Topic != "t" {
		t.Fatalf("took %v", got)
	}
	if held[0].Topic != "" || held[1].Topic != "" || held[2].Topic != "t" {
		t.Errorf("it holds %v", held)
	}
}
