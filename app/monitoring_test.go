package app

import (
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/millrace-io/millrace/metrics"
)

var updateMetrics = flag.Bool("update-metrics", false, "write docs/metrics.md anew")

// metric is one that some part of the program gives, as its source says.
type metric struct {
	name, kind, help string
	labels           []string
}

// exported reads the source of who gives metrics: a scrape shows only those that have happened.
func exported(t *testing.T) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	for _, pattern := range []string{"*.go", "../metrics/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), f, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				if c, ok := n.(*ast.CallExpr); ok {
					if m, ok := given(c); ok {
						for _, l := range all[m.name].labels {
							if !slices.Contains(m.labels, l) {
								m.labels = append(m.labels, l)
							}
						}
						all[m.name] = m
					}
				}
				return true
			})
		}
	}
	return all
}

// given is the metric that a call gives, if it is such a call with a constant name.
func given(c *ast.CallExpr) (m metric, ok bool) {
	sel, ok := c.Fun.(*ast.SelectorExpr)
	if !ok {
		return m, false
	}
	args := c.Args
	labels := map[string]int{"Counter": 3, "Gauge": 3, "Histogram": 5, "Durations": 3, "Counters": 2}
	first, ok := labels[sel.Sel.Name]
	if !ok || len(args) < first {
		return m, false
	}
	if sel.Sel.Name == "Counters" {
		args = args[1:] // the samples
	}
	name, ok := constant(args[0])
	if !ok {
		return m, false
	}
	m.name, m.kind = metrics.Prefix+name, strings.ToLower(sel.Sel.Name)
	m.help, _ = constant(args[1])
	switch m.kind {
	case "counter":
		m.name += "_total"
	case "counters":
		m.name, m.kind = m.name+"_total", "counter"
		if l, ok := constant(args[2]); ok {
			m.labels = []string{l}
		}
		return m, true
	case "durations":
		m.kind = "histogram"
	}
	for i := first; i < len(args); i += 2 {
		if l, ok := constant(args[i]); ok {
			m.labels = append(m.labels, l)
		}
	}
	return m, true
}

// constant is the text of a string literal, or of some that are added.
func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		a, ok := constant(e.X)
		b, too := constant(e.Y)
		return a + b, ok && too && e.Op == token.ADD
	}
	return "", false
}

// Everything that a node shows is found in the source, so that the checks below do not overlook what they should know.
func TestMetricsAreFoundInTheSource(t *testing.T) {
	known := exported(t)
	_, body := fetch(t, boot(t, testConfig(t, "")), "/metrics")
	seen := 0
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (millrace_\w+) (\w+)`).FindAllStringSubmatch(body, -1) {
		if k, ok := known[m[1]]; !ok || k.kind != m[2] {
			t.Errorf("%s, a %s, is not found in the source, or as %q", m[1], m[2], k.kind)
		}
		seen++
	}
	if seen < 80 {
		t.Errorf("only %d metrics are shown:\n%s", seen, body)
	}
}

// docs/metrics.md lists all of them.
func TestMetricsDocument(t *testing.T) {
	var b strings.Builder
	b.WriteString("| Metric | Kind | Labels | Meaning |\n|---|---|---|---|\n")
	all := exported(t)
	names := make([]string, 0, len(all))
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		m := all[n]
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, m.kind, strings.Join(m.labels, ", "), strings.ReplaceAll(m.help, "|", `\|`))
	}
	const path = "../docs/metrics.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), "<!-- metrics -->\n")
	_, tail, end := strings.Cut(rest, "<!-- end of metrics -->\n")
	if !ok || !end {
		t.Fatalf("%s has no marks around its table", path)
	}
	want := head + "<!-- metrics -->\n" + b.String() + "<!-- end of metrics -->\n" + tail
	if want == string(text) {
		return
	}
	if !*updateMetrics {
		t.Fatalf("%s does not say what the program exports: go test ./app -run TestMetricsDocument -update-metrics", path)
	}
	if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// expression is one that a dashboard or a rule asks Prometheus.
type expression struct{ where, text string }

func expressions(t *testing.T) (list []expression) {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Query string }
		}
	}
	text, err := os.ReadFile("../deploy/grafana/millrace.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			list = append(list, expression{"panel " + p.Title, q.Expr})
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if text, err = os.ReadFile("../deploy/prometheus/millrace-alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			list = append(list, expression{"alert " + r.Alert, r.Expr})
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("alert %s does not say what it is and what to do", r.Alert)
			}
		}
	}
	if len(list) < 60 {
		t.Fatalf("only %d expressions", len(list))
	}
	return list
}

var (
	metricIn   = regexp.MustCompile(`\b(millrace_\w+|process_\w+|go_\w+)(?:\{([^}]*)\})?(\[)?`)
	matcherIn  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	groupingIn = regexp.MustCompile(`\b(?:by|without)\s*\(([^)]*)\)`)
)

// wrong is what there is to say against an expression.
func wrong(expr string, known map[string]metric) error {
	labels := []string{"job", "instance", "le"}
	for _, m := range metricIn.FindAllStringSubmatch(expr, -1) {
		name, matchers, ranged := m[1], m[2], m[3] != ""
		base := name
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if k, ok := known[strings.TrimSuffix(name, suffix)]; ok && k.kind == "histogram" {
				base = strings.TrimSuffix(name, suffix)
			}
		}
		k, ok := known[base]
		if !ok && strings.HasPrefix(name, metrics.Prefix) {
			return fmt.Errorf("there is no metric %s", name)
		}
		if ok && k.kind == "histogram" && base == name {
			return fmt.Errorf("%s is a histogram: ask for its _bucket, _sum or _count", name)
		}
		if ok && ranged && k.kind == "gauge" && (strings.Contains(expr, "increase("+name) || strings.Contains(expr, "rate("+name)) {
			return fmt.Errorf("%s is a gauge, and has no rate", name)
		}
		own := append(slices.Clone(k.labels), "job", "instance", "le")
		for _, l := range matcherIn.FindAllStringSubmatch(matchers, -1) {
			if !slices.Contains(own, l[1]) {
				return fmt.Errorf("%s has no label %s, only %v", name, l[1], own)
			}
		}
		labels = append(labels, k.labels...)
	}
	for _, g := range groupingIn.FindAllStringSubmatch(expr, -1) {
		for l := range strings.SplitSeq(g[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(labels, l) {
				return fmt.Errorf("nothing in it has the label %s", l)
			}
		}
	}
	return nil
}

// The dashboard and the alert rules ask for what there is.
func TestDashboardAndAlerts(t *testing.T) {
	known := exported(t)
	for _, e := range expressions(t) {
		if err := wrong(e.text, known); err != nil {
			t.Errorf("%s: %v: %s", e.where, err, e.text)
		}
	}
	for _, bad := range []string{
		`rate(millrace_messages_totals[5m])`, `sum by (reasons) (rate(millrace_refused_total[5m]))`, `millrace_messages_total{direction="in"}`,
		`rate(millrace_latency_seconds[5m])`, `rate(millrace_mqtt_connections[5m])`,
	} {
		if wrong(bad, known) == nil {
			t.Errorf("nothing is said against %s", bad)
		}
	}
}

// Prometheus takes the rules, and every expression of the dashboard, and an alert goes off when it should.
func TestForeignPromtool(t *testing.T) {
	promtool := tool(t, "promtool")
	dir := t.TempDir()
	var b strings.Builder
	b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, e := range expressions(t) {
		text := strings.NewReplacer("$__rate_interval", "5m", "$__all", ".*", "$job", ".*", "$instance", ".*").Replace(e.text)
		fmt.Fprintf(&b, "      - {record: \"dashboard:%d\", expr: %q}\n", i, text)
	}
	file := filepath.Join(dir, "dashboard.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", "rules", file}, {"check", "rules", "../deploy/prometheus/millrace-alerts.yaml"},
		{"check", "config", "../deploy/prometheus/prometheus.yaml"}, {"test", "rules", "../deploy/prometheus/millrace-alerts-test.yaml"},
	} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	_, body := fetch(t, boot(t, testConfig(t, "")), "/metrics")
	check.Stdin = strings.NewReader(body)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
