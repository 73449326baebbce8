package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowServer answers requests when it is released.
type slowServer struct{ release chan struct{} }

func (s slowServer) RoundTrip(*http.Request) (*http.Response, error) {
	<-s.release
	return &http.Response{StatusCode: http.StatusOK}, nil
}

func request(method, path string) *http.Request {
	r, err := http.NewRequest(method, "https://api"+path, strings.NewReader("{}"))
	if err != nil {
		panic(err)
	}
	return r
}

func TestStopWaitsForWritesAndRefusesNewOnes(t *testing.T) {
	for name, c := range map[string]struct {
		method, path string
		waits        bool
	}{
		"a patch":                {http.MethodPatch, "/api/v1/namespaces/a/services/b/status", true},
		"a creation":             {http.MethodPost, "/apis/apps/v1/namespaces/a/daemonsets", true},
		"a watch":                {http.MethodGet, "/api/v1/services", false},
		"the renewal of a lease": {http.MethodPut, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, server := &writes{}, slowServer{make(chan struct{})}
				client := w.wrap(server)
				go client.RoundTrip(request(c.method, c.path))
				synctest.Wait()
				ended := make(chan bool)
				go func() { ended <- w.stop(time.Minute) }()
				synctest.Wait()
				select {
				case <-ended:
					if c.waits {
						t.Error("it did not wait")
					}
				default:
					if !c.waits {
						t.Error("it waits")
					}
				}
				if c.waits {
					if _, err := client.RoundTrip(request(c.method, c.path)); !errors.Is(err, errStopped) {
						t.Errorf("another one: %v", err)
					}
				}
				close(server.release)
				if c.waits && !<-ended {
					t.Error("it has not ended")
				}
				if _, err := client.RoundTrip(request(c.method, c.path)); (err != nil) != c.waits {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

func TestStopWaitsOnlySoLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, server := &writes{}, slowServer{make(chan struct{})}
		go w.wrap(server).RoundTrip(request(http.MethodPut, "/api"))
		synctest.Wait()
		if began := time.Now(); w.stop(time.Second) || time.Since(began) != time.Second {
			t.Errorf("it ended after %s", time.Since(began))
		}
		close(server.release)
	})
}
