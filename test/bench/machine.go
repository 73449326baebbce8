package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine describes the machine that measures.
type machine struct {
	cpu, kernel string
	cores       int
	memory      int // GiB
	// load is the load average of the five minutes before the measurement.
	load string
	date time.Time
}

func describeMachine() (machine, error) {
	cpuInfo, err1 := os.ReadFile("/proc/cpuinfo")
	memInfo, err2 := os.ReadFile("/proc/meminfo")
	load, err3 := os.ReadFile("/proc/loadavg")
	var name unix.Utsname
	err4 := unix.Uname(&name)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return machine{}, err
	}
	var kib int
	_, err := fmt.Sscanf(field(string(memInfo), "MemTotal"), "%d", &kib)
	kernel, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return machine{
		cpu: field(string(cpuInfo), "model name"), kernel: kernel, cores: runtime.NumCPU(), memory: kib >> 20,
		load: strings.Fields(string(load))[1], date: time.Now(),
	}, err
}

// field returns the value of the first line "name : value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
