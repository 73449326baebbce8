package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// compare returns an error that names the files of two folders that differ, with the first difference
// of each.
func compare(first, second string) error {
	names, err := fileNames(first)
	if err != nil {
		return err
	}
	others, err := fileNames(second)
	if err != nil {
		return err
	}
	if !slices.Equal(names, others) {
		return fmt.Errorf("the first has the files %q, the second %q", names, others)
	}
	var differences []error
	for _, name := range names {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			differences = append(differences, fmt.Errorf("%s differs in %s", name, difference(a, b)))
		}
	}
	return errors.Join(differences...)
}

func fileNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// difference describes the first difference of two files: an entry of a tar archive, or a line. The
// name of a blob in an image is its hash.
func difference(a, b []byte) string {
	entriesA, errA := tarEntries(a)
	entriesB, errB := tarEntries(b)
	if errA == nil && errB == nil {
		return "entry " + firstDifference(entriesA, entriesB)
	}
	return "line " + firstDifference(bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n")))
}

// firstDifference returns the number, from 1, and the first difference of two lists.
func firstDifference(a, b [][]byte) string {
	i := 0
	for i < min(len(a), len(b)) && bytes.Equal(a[i], b[i]) {
		i++
	}
	show := func(list [][]byte) string {
		if i >= len(list) {
			return "nothing"
		}
		return fmt.Sprintf("%.200q", list[i])
	}
	return fmt.Sprintf("%d: %s in the first, %s in the second", i+1, show(a), show(b))
}

// tarEntries returns name, mode and hash of the entries of a tar archive, which may be compressed.
func tarEntries(archive []byte) ([][]byte, error) {
	var content io.Reader = bytes.NewReader(archive)
	if uncompressed, err := gzip.NewReader(bytes.NewReader(archive)); err == nil {
		content = uncompressed
	}
	var entries [][]byte
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, r); err != nil {
			return nil, err
		}
		entries = append(entries, fmt.Appendf(nil, "%s %o %x", h.Name, h.Mode, hash.Sum(nil)))
	}
}
