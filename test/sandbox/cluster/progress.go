package cluster

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress prints steps and how long they take. Steps may overlap.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	start time.Time
}

func newProgress(out io.Writer) *progress { return &progress{out: out, start: time.Now()} }

// step runs one step.
func (p *progress) step(what string, do func() error) error {
	done := p.begin(what)
	err := do()
	done(err)
	return err
}

// begin prints the start of a step, and every 30 seconds that it still runs. The function that it
// returns ends the step.
func (p *progress) begin(what string) func(error) {
	began := time.Now()
	p.printf("%s ...", what)
	ticker := time.NewTicker(30 * time.Second)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				p.printf("  still %s (%.0fs)", what, time.Since(began).Seconds())
			}
		}
	}()
	return func(err error) {
		ticker.Stop()
		close(stop)
		if err != nil {
			p.printf("FAILED: %s (%.1fs)", what, time.Since(began).Seconds())
			return
		}
		p.printf("done: %s (%.1fs)", what, time.Since(began).Seconds())
	}
}

func (p *progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}
