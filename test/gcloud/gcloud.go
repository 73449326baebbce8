// Package gcloud parses the commands `gcloud compute firewall-rules create|update|delete` as a
// shell and gcloud do, and turns them into requests of the Compute API. It accepts the flags in
// gcloud's reference and refuses all others. It is for tests of commands in messages to users.
package gcloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Request is the request of a command.
type Request struct {
	Method, Project, Name string
	Body                  map[string]any
}

// Run parses a command line and sends its requests to the API at base, such as
// http://host:port.
func Run(client *http.Client, base, line string) error {
	for _, command := range strings.Split(line, " && ") {
		r, err := Parse(command)
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		if err := r.send(client, base); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

func (r Request) send(client *http.Client, base string) error {
	url := base + "/compute/v1/projects/" + r.Project + "/global/firewalls"
	if r.Method != http.MethodPost {
		url += "/" + r.Name
	}
	body, err := json.Marshal(r.Body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(r.Method, url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if text, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s %w", r.Method, url, text, err)
	}
	return nil
}

var methods = map[string]string{"create": http.MethodPost, "update": http.MethodPatch, "delete": http.MethodDelete}

// Parse parses one command.
func Parse(command string) (Request, error) {
	words, err := split(command)
	if err != nil {
		return Request{}, err
	}
	if len(words) < 5 || !slices.Equal(words[:3], []string{"gcloud", "compute", "firewall-rules"}) || methods[words[3]] == "" {
		return Request{}, fmt.Errorf("not a command on firewall rules: %q", words)
	}
	r := Request{Method: methods[words[3]], Name: words[4], Body: map[string]any{}}
	seen := map[string]bool{}
	for _, word := range words[5:] {
		name, _, _ := strings.Cut(word, "=")
		if seen[name] {
			return r, fmt.Errorf("%s is given twice", name)
		}
		seen[name] = true
		if err := r.flag(words[3], word); err != nil {
			return r, err
		}
	}
	return r, r.complete()
}

// complete adds the name, and returns an error if a required flag is missing.
func (r *Request) complete() error {
	if r.Project == "" {
		return errors.New("no --project")
	}
	switch r.Method {
	case http.MethodPost:
		if r.Body["allowed"] == nil {
			return errors.New("create needs --allow")
		}
		r.Body["name"] = r.Name
	case http.MethodPatch:
		if len(r.Body) == 0 {
			return errors.New("at least one property must be modified")
		}
	}
	return nil
}

// lists maps the flags with lists to fields of the API.
var (
	lists = map[string]string{
		"--source-ranges": "sourceRanges", "--destination-ranges": "destinationRanges", "--source-tags": "sourceTags", "--target-tags": "targetTags",
		"--source-service-accounts": "sourceServiceAccounts", "--target-service-accounts": "targetServiceAccounts",
	}
	onlyCreate = []string{"--network", "--direction"}
)

func (r *Request) flag(verb, word string) error {
	flag, value, hasValue := strings.Cut(word, "=")
	if verb == "delete" && flag != "--project" && flag != "--quiet" || verb != "create" && slices.Contains(onlyCreate, flag) {
		return fmt.Errorf("%s has no flag %s", verb, flag)
	}
	if bare := []string{"--quiet", "--disabled", "--no-disabled"}; hasValue == slices.Contains(bare, flag) {
		return fmt.Errorf("%s: a value is missing or not allowed", word)
	}
	if field, isList := lists[flag]; isList {
		if value == "" && verb == "create" {
			return fmt.Errorf("%s is empty", flag)
		}
		r.Body[field] = nil
		if value != "" {
			r.Body[field] = strings.Split(value, ",")
		}
		return nil
	}
	switch {
	case flag == "--project":
		r.Project = value
	case flag == "--quiet":
	case flag == "--disabled", flag == "--no-disabled":
		r.Body["disabled"] = flag == "--disabled"
	case flag == "--network":
		r.Body["network"] = "global/networks/" + value
	case flag == "--direction" && value != "INGRESS" && value != "EGRESS":
		return fmt.Errorf("invalid direction: %s", word)
	case flag == "--direction", flag == "--description":
		r.Body[strings.TrimPrefix(flag, "--")] = value
	case flag == "--priority":
		n, err := strconv.ParseUint(value, 10, 16)
		r.Body["priority"] = int(n)
		return err
	case flag == "--allow":
		var err error
		r.Body["allowed"], err = allowed(value)
		return err
	default:
		return fmt.Errorf("unknown flag %s", word)
	}
	return nil
}

// allowance matches an item of --allow with gcloud's own pattern.
var allowance = regexp.MustCompile(`^([a-zA-Z0-9+.-]+)(?::(\d+(?:-\d+)?))?$`)

// allowed parses "tcp:80,tcp:90-91,icmp".
func allowed(value string) ([]map[string]any, error) {
	var list []map[string]any
	for _, item := range strings.Split(value, ",") {
		match := allowance.FindStringSubmatch(item)
		if match == nil {
			return nil, fmt.Errorf("firewall rules must be of the form PROTOCOL[:PORT[-PORT]]; received %q", item)
		}
		entry := map[string]any{"IPProtocol": match[1]}
		if match[2] != "" {
			entry["ports"] = []string{match[2]}
		}
		list = append(list, entry)
	}
	return list, nil
}

// split splits a line into words as a POSIX shell does, with single quotes, and backslashes outside
// of them. It refuses all other characters with a meaning to a shell.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted, begun, escaped := false, false, false
	for _, c := range line {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case c == '\'':
			quoted, begun = !quoted, true
		case quoted:
			word.WriteRune(c)
		case c == '\\':
			escaped, begun = true, true
		case c == ' ':
			if begun {
				words = append(words, word.String())
			}
			word.Reset()
			begun = false
		case strings.ContainsRune("\"`$&|;<>(){}[]*?!~#\n\t", c):
			return nil, fmt.Errorf("character %q has a meaning to the shell: quote it", c)
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	if quoted || escaped {
		return nil, errors.New("unterminated quotation")
	}
	if begun {
		words = append(words, word.String())
	}
	return words, nil
}
