package options

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

// values returns a list of n different label values.
func values(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint("v", i))
	}
	return strings.Join(list, ",")
}

func TestWhatIsAtALimitIsValid(t *testing.T) {
	for name, value := range map[string]string{
		NodeSelector: "a in (" + values(100) + ")",
		Tolerations:  "[" + strings.Repeat(`{"key":"a"},`, 49) + `{"key":"a"}]` + strings.Repeat(" ", 4096-50*12-1),
	} {
		if _, err := Parse(map[string]string{name: value}, Default()); err != nil {
			t.Errorf("%s with %d bytes: %v", name, len(value), err)
		}
	}
}

func TestListShowsTheFirstValues(t *testing.T) {
	for n, want := range map[int]string{0: "", 1: "a", 4: "a, b, c, d", 6: "a, b, c, d and 2 more"} {
		if got := List([]string{"a", "b", "c", "d", "e", "f"}[:n]); got != want {
			t.Errorf("%d values: %s", n, got)
		}
	}
}

func TestQuoteShowsTheBeginningOfAValue(t *testing.T) {
	for value, want := range map[string]string{
		"":                                   `""`,
		"a\nb":                               `"a\nb"`,
		strings.Repeat("ä", maxQuoted):       `"` + strings.Repeat("ä", maxQuoted) + `"`,
		strings.Repeat("ä", maxQuoted) + "x": `"` + strings.Repeat("ä", maxQuoted) + `"…`,
	} {
		if got := Quote(value); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}

func TestCutKeepsTheLimitAndMarksWhatItCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, limit := rapid.StringN(0, 300, -1).Draw(t, "text"), rapid.IntRange(60, 200).Draw(t, "limit")
		got := Cut(text, limit)
		switch {
		case len(text) <= limit && got != text:
			t.Fatalf("a text of %d bytes is cut to %q", len(text), got)
		case len(text) > limit && (len(got) > limit || !utf8.ValidString(got) || !strings.HasSuffix(got, fmt.Sprintf("…(cut: %d of %d bytes)", limit, len(text)))):
			t.Fatalf("got %d bytes, %q", len(got), got)
		}
	})
}

// However long what a user writes is, a message about it is short.
func TestMessagesAboutLongValuesAreShort(t *testing.T) {
	long := strings.Repeat("x y", 80_000)
	many := map[string]string{}
	for i := range 1000 {
		many[fmt.Sprint(Prefix, "unknown-", i)] = long
	}
	var messages []string
	for _, name := range Known() {
		for _, value := range []string{long, long[:4000], `[{"key": "` + long[:3000] + `"}]`, `[{"key": "a", "value": "` + long[:3000] + `"}]`, `[{"` + long[:3000] + `": 1}]`, "a in (" + long[:3000] + ")"} {
			if _, err := Parse(map[string]string{name: value}, Default()); err != nil {
				messages = append(messages, err.Error())
			}
		}
	}
	_, err := SourceRanges(&v1.Service{Spec: v1.ServiceSpec{LoadBalancerSourceRanges: []string{long}}})
	messages = append(messages, err.Error())
	unknown := Unknown(many)
	if len(unknown) != 6 || !strings.HasPrefix(unknown[5], "995 more annotations") {
		t.Errorf("%d messages about unknown annotations, the last is %q", len(unknown), unknown[len(unknown)-1])
	}
	for _, message := range append(messages, unknown...) {
		if len(message) > 600 {
			t.Errorf("a message of %d bytes: %.200s…", len(message), message)
		}
	}
}
