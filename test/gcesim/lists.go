package gcesim

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// list is one page of a list.
type list[T any] struct {
	Kind          string `json:"kind"`
	ID            string `json:"id"`
	Items         []T    `json:"items,omitempty"`
	NextPageToken string `json:"nextPageToken,omitempty"`
	SelfLink      string `json:"selfLink"`
}

const maxPageSize = 500

// listReply returns a page of the items that match the call's filter. Items are sorted by name.
func listReply[T any](c *call, kind, path string, items []T, name func(T) string) (any, *apiError) {
	kept, failure := filterItems(c.http.FormValue("filter"), items)
	if failure != nil {
		return nil, failure
	}
	page, next, failure := cutPage(c, kept, name)
	if failure != nil {
		return nil, failure
	}
	return list[T]{Kind: kind, ID: path, Items: page, NextPageToken: next, SelfLink: selfLinkBase + path}, nil
}

// cutPage returns maxResults items after the one in the page token, and the next token.
func cutPage[T any](c *call, items []T, name func(T) string) (page []T, next string, failure *apiError) {
	size := maxPageSize
	if wanted := c.http.FormValue("maxResults"); wanted != "" {
		n, err := strconv.Atoi(wanted)
		if err != nil || n < 0 || n > maxPageSize {
			return nil, "", invalidField("maxResults", wanted, "Must be an integer from 0 to 500.")
		}
		if n > 0 {
			size = n
		}
	}
	if token := c.http.FormValue("pageToken"); token != "" {
		last, err := base64.URLEncoding.DecodeString(token)
		if err != nil {
			return nil, "", invalidField("pageToken", token, "Invalid page token.")
		}
		items = slices.DeleteFunc(slices.Clone(items), func(item T) bool { return name(item) <= string(last) })
	}
	if len(items) > size {
		items = items[:size]
		next = base64.URLEncoding.EncodeToString([]byte(name(items[size-1])))
	}
	return items, next, nil
}

// term is one comparison of a filter.
type term struct {
	field, operator, value string
	pattern                *regexp.Regexp // For eq and ne.
}

var termPattern = regexp.MustCompile(`^\s*([A-Za-z][A-Za-z0-9.]*)\s*(=|!=|:|\beq\b|\bne\b)\s*(.*?)\s*$`)

// filterItems returns the items that match a filter: one comparison, or several in parentheses that
// must all hold. AND, OR and comparisons of order are not supported.
func filterItems[T any](filter string, items []T) ([]T, *apiError) {
	terms, failure := parseFilter(filter)
	if failure != nil || len(terms) == 0 {
		return items, failure
	}
	var kept []T
	for _, item := range items {
		fields := fieldsOf(item)
		matchesAll := true
		for _, t := range terms {
			matchesAll = matchesAll && t.matches(fields)
		}
		if matchesAll {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

var betweenTerms = regexp.MustCompile(`\)\s*\(`)

func parseFilter(filter string) ([]term, *apiError) {
	written := []string{strings.TrimSpace(filter)}
	if written[0] == "" {
		return nil, nil
	}
	if strings.HasPrefix(written[0], "(") && strings.HasSuffix(written[0], ")") {
		written = betweenTerms.Split(written[0][1:len(written[0])-1], -1)
	}
	var terms []term
	for _, w := range written {
		parts := termPattern.FindStringSubmatch(w)
		if parts == nil {
			return nil, invalidField("filter", filter, "Invalid list filter expression.")
		}
		t := term{field: parts[1], operator: parts[2], value: unquote(parts[3])}
		if t.operator == "eq" || t.operator == "ne" {
			var err error
			if t.pattern, err = regexp.Compile("^(?:" + t.value + ")$"); err != nil {
				return nil, invalidField("filter", filter, "Invalid list filter expression.")
			}
		}
		terms = append(terms, t)
	}
	return terms, nil
}

// matches compares as GCE does: eq and ne with a pattern for the whole field, = and != literally,
// and ":" with a part of the text.
func (t term) matches(fields map[string]any) bool {
	have := lookUp(fields, t.field)
	switch t.operator {
	case "=":
		return have == t.value
	case "!=":
		return have != t.value
	case ":":
		return strings.Contains(strings.ToLower(have), strings.ToLower(strings.Trim(t.value, "*")))
	}
	return t.pattern.MatchString(have) == (t.operator == "eq")
}

func lookUp(fields map[string]any, dotted string) string {
	name, rest, nested := strings.Cut(dotted, ".")
	if below, ok := fields[name].(map[string]any); ok && nested {
		return lookUp(below, rest)
	}
	if fields[name] == nil {
		return ""
	}
	return fmt.Sprint(fields[name])
}

func fieldsOf(item any) map[string]any {
	data, err := json.Marshal(item)
	var fields map[string]any
	if err == nil {
		err = json.Unmarshal(data, &fields)
	}
	if err != nil {
		panic(fmt.Sprintf("the item %T does not marshal: %v", item, err))
	}
	return fields
}

func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}
