//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// wantEvent waits for an event of a Service with a reason and a message that contains all words,
// and returns the message.
func wantEvent(t *testing.T, svc *v1.Service, reason string, words ...string) (message string) {
	t.Helper()
	eventually(t, 90*time.Second, fmt.Sprintf("event %s of Service %s contains %q", reason, svc.Name, words), func(ctx context.Context) (err error) {
		message, err = findEvent(ctx, svc.Namespace, "reason="+reason+",involvedObject.uid="+string(svc.UID), words)
		return err
	})
	return message
}

// wantNodeEvent waits for an event of a Node with a reason and a message that contains all words.
func wantNodeEvent(t *testing.T, node cluster.Node, reason string, words ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("event %s of Node %s contains %q", reason, node.Name, words), func(ctx context.Context) error {
		_, err := findEvent(ctx, metav1.NamespaceDefault, "reason="+reason+",involvedObject.name="+node.Name, words)
		return err
	})
}

// wantWarning waits for a Warning event of a Service whose reason and message contain all words.
func wantWarning(t *testing.T, svc *v1.Service, words ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("a Warning of Service %s contains %q", svc.Name, words), func(ctx context.Context) error {
		return hasWarning(ctx, svc, words...)
	})
}

func hasWarning(ctx context.Context, svc *v1.Service, words ...string) error {
	_, err := findEvent(ctx, svc.Namespace, "type=Warning,involvedObject.uid="+string(svc.UID), words)
	return err
}

// findEvent returns the message of an event whose reason and message contain all words.
func findEvent(ctx context.Context, namespace, selector string, words []string) (message string, err error) {
	list, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range list.Items {
		text := e.Reason + ": " + e.Message
		if containsAll(text, words) {
			return e.Message, nil
		}
		found = append(found, text)
	}
	return "", fmt.Errorf("the events are %q", found)
}

func containsAll(s string, words []string) bool {
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(s, word) })
}
