package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used.
type usage struct {
	// RSS is the resident memory in KiB, Peak the largest so far.
	RSS, Peak int
	CPU       time.Duration
}

func usageOf(pid int) (usage, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return usage{}, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(status), string(stat))
}

// tick is the unit of times in /proc/PID/stat: USER_HZ is 100 on all architectures of Go.
const tick = 10 * time.Millisecond

// parseUsage reads /proc/PID/status and /proc/PID/stat.
func parseUsage(status, stat string) (usage, error) {
	var u usage
	var errs []error
	for field, value := range map[string]*int{"VmRSS:": &u.RSS, "VmHWM:": &u.Peak} {
		_, after, found := strings.Cut(status, field)
		words := strings.Fields(after)
		if !found || len(words) == 0 {
			return u, fmt.Errorf("no %s in the status of a process", field)
		}
		var err error
		*value, err = strconv.Atoi(words[0])
		errs = append(errs, err)
	}
	// The second field is the program in parentheses, and may have spaces. utime and stime are the 14th
	// and the 15th.
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return u, fmt.Errorf("too few fields in the stat of a process: %s", stat)
	}
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(field)
		errs = append(errs, err)
		u.CPU += time.Duration(ticks) * tick
	}
	return u, errors.Join(errs...)
}
