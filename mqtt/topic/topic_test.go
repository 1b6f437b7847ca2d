package topic

import (
	"errors"
	"strings"
	"testing"
)

func TestValidateName(t *testing.T) {
	for name, want := range map[string]error{
		"a":                  nil,
		"/":                  nil,
		"//":                 nil,
		"$SYS/broker/uptime": nil,
		"/hfp/v2/journey/ongoing/vp/bus/0012/01211/2550/1/Itäkeskus(M)/14:41/1453117/4/60;25/20/21/44": nil,
		"with space":                     nil,
		"\ufeffmarked":                   nil,
		"\uffff":                         nil, // a non-character: should not be there, but may
		"$share/g/a":                     nil, // a legal name, if an odd one
		"":                               ErrEmpty,
		"a\x00b":                         ErrText,
		"a\nb":                           ErrText,
		"a\x7f":                          ErrText,
		"\u0085":                         ErrText,
		"ok ä\u009f":                     ErrText,
		"\xff":                           ErrText,
		"\xc0\xaf":                       ErrText, // overlong /
		"\xed\xa0\x80":                   ErrText, // a surrogate
		"a+b":                            ErrWildcard,
		"+":                              ErrWildcard,
		"a/#":                            ErrWildcard,
		strings.Repeat("a", MaxBytes):    nil,
		strings.Repeat("a", MaxBytes+1):  ErrTooLong,
		strings.Repeat("/", MaxLevels-1): nil,
		strings.Repeat("/", MaxLevels):   ErrTooDeep,
	} {
		if err := ValidateName([]byte(name)); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", name, err, want)
		}
	}
}

func TestValidateFilter(t *testing.T) {
	for filter, want := range map[string]error{
		"a": nil, "#": nil, "+": nil, "/": nil, "+/+": nil, "/+": nil, "a/+/b": nil, "a/#": nil, "+/#": nil, "$SYS/#": nil, "$share": nil,
		"":                                      ErrEmpty,
		"a+":                                    ErrWildcard,
		"+a":                                    ErrWildcard,
		"a/b+/c":                                ErrWildcard,
		"a#":                                    ErrWildcard,
		"a/#/b":                                 ErrWildcard,
		"#/":                                    ErrWildcard,
		"##":                                    ErrWildcard,
		"++":                                    ErrWildcard,
		"a/+#":                                  ErrWildcard,
		"a\x00":                                 ErrText,
		"a\r/#":                                 ErrText,
		"\xff/#":                                ErrText,
		"$share/g/a":                            ErrShare,
		strings.Repeat("+/", MaxLevels-1) + "#": nil,
		strings.Repeat("+/", MaxLevels) + "#":   ErrTooDeep,
	} {
		if err := ValidateFilter(filter); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, want %v", filter, err, want)
		}
	}
}

func TestParseShared(t *testing.T) {
	for _, c := range []struct {
		filter, share, rest string
		ok                  bool
		err                 error
	}{
		{"a/b", "", "", false, nil},
		{"$share", "", "", false, nil},
		{"$shared/g/a", "", "", false, nil},
		{"$share/g/a", "g", "a", true, nil},
		{"$share/g/#", "g", "#", true, nil},
		{"$share/g//a", "g", "/a", true, nil},
		{"$share/g/$SYS/#", "g", "$SYS/#", true, nil},
		{"$share/", "", "", true, ErrShare},
		{"$share/g", "", "", true, ErrShare},
		{"$share//a", "", "", true, ErrShare},
		{"$share/g+/a", "", "", true, ErrShare},
		{"$share/#/a", "", "", true, ErrShare},
		{"$share/g\x00/a", "", "", true, ErrText},
		{"$share/g/", "", "", true, ErrEmpty},
		{"$share/g/a#", "", "", true, ErrWildcard},
		{"$share/g/$share/h/a", "", "", true, ErrShare},
	} {
		share, rest, ok, err := ParseShared(c.filter)
		if share != c.share || rest != c.rest || ok != c.ok || !errors.Is(err, c.err) {
			t.Errorf("%q: %q %q %v %v", c.filter, share, rest, ok, err)
		}
	}
}

var matchCases = []struct {
	filter, name string
	want         bool
}{
	{"a", "a", true},
	{"a", "b", false},
	{"a", "ab", false},
	{"ab", "a", false},
	{"#", "a", true},
	{"#", "/", true},
	{"a/#", "a", true},
	{"a/#", "a/", true},
	{"a/#", "a/b/c", true},
	{"a/#", "ab", false},
	{"a/#", "b", false},
	{"+", "a", true},
	{"+", "/a", false},
	{"+/+", "/a", true},
	{"/+", "/a", true},
	{"+/", "a/", true},
	{"a/+", "a", false},
	{"a/+", "a/", true},
	{"a/+/c", "a/b/c", true},
	{"a/+/c", "a//c", true},
	{"a/+/c", "a/b/d", false},
	{"a/+/#", "a/b", true},
	{"a/+/#", "a", false},
	{"+/#", "a", true},
	{"a//b", "a//b", true},
	{"a//b", "a/b", false},
	{"#", "$SYS", false},
	{"+/a", "$SYS/a", false},
	{"+/#", "$SYS/a", false},
	{"$SYS/#", "$SYS/a", true},
	{"$SYS/+", "$SYS/a", true},
	{"a/#", "a/$b", true},
	{"a/+", "a/$b", true},
	{"A", "a", false},
}

func TestMatch(t *testing.T) {
	for _, c := range matchCases {
		if got := Match(c.filter, c.name); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.filter, c.name, got)
		}
		if got := naiveMatch(c.filter, c.name); got != c.want {
			t.Errorf("the test's own matcher: %q, %q = %v", c.filter, c.name, got)
		}
	}
}

// naiveMatch is the rule of MQTT 5.0, 4.7, written for reading.
func naiveMatch(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i >= len(n) || level != "+" && level != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

func FuzzMatch(f *testing.F) {
	for _, c := range matchCases {
		f.Add(c.filter, c.name)
	}
	f.Add("a/+/c", "a/!/c")
	f.Add("+/+/x", "a!/b/x")
	f.Fuzz(func(t *testing.T, filter, name string) {
		if ValidateFilter(filter) != nil || ValidateName([]byte(name)) != nil {
			return
		}
		want := naiveMatch(filter, name)
		if got := Match(filter, name); got != want {
			t.Fatalf("Match(%q, %q) = %v", filter, name, got)
		}
		var tree Tree[int, int]
		tree.Set(filter, 1, 1)
		found := false
		tree.Match(name, func(int, int) { found = true })
		if found != want {
			t.Fatalf("tree with %q, name %q: %v", filter, name, found)
		}
		if want {
			return
		}
		bound, ok := leap(filter, name)
		if ok && bound <= name {
			t.Fatalf("leap(%q, %q) = %q goes back", filter, name, bound)
		}
	})
}

func FuzzValidate(f *testing.F) {
	for _, s := range []string{"a/b", "+/#", "$share/g/a", "\xff", "ä\u0085", "a\x00", "#/", "$share//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if ValidateName([]byte(s)) == nil && !strings.HasPrefix(s, sharePrefix) && ValidateFilter(s) != nil {
			t.Fatalf("%q is a name but not a filter", s)
		}
		if share, rest, ok, err := ParseShared(s); ok && err == nil && (sharePrefix+share+"/"+rest != s || ValidateFilter(rest) != nil) {
			t.Fatalf("%q is taken apart into %q and %q", s, share, rest)
		}
	})
}
