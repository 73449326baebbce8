// Package hardware describes the machine that a benchmark runs on, for the pages that benchmarks write.
package hardware

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Description is what a reader needs to compare figures.
type Description struct {
	CPU, Kernel string
	Cores       int
	Memory      int // GiB
	// Load is the load average of the last five minutes.
	Load string
	Date time.Time
}

// Describe returns the description of this machine, now.
func Describe() (Description, error) {
	cpuInfo, err1 := os.ReadFile("/proc/cpuinfo")
	memInfo, err2 := os.ReadFile("/proc/meminfo")
	load, err3 := os.ReadFile("/proc/loadavg")
	var name unix.Utsname
	err4 := unix.Uname(&name)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Description{}, err
	}
	var kib int
	_, err := fmt.Sscanf(Field(string(memInfo), "MemTotal"), "%d", &kib)
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return Description{
		CPU: Field(string(cpuInfo), "model name"), Kernel: kernel, Cores: runtime.NumCPU(), Memory: kib >> 20,
		Load: strings.Fields(string(load))[1], Date: time.Now(),
	}, err
}

// Field returns the value of the first line "name : value" of a file of /proc; "unknown" if there is none.
func Field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
