package debs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"strings"
)

// needs returns the paths that the file cannot do without: what a link points
// to, what a program or library is linked against. A link out of the packages
// needs nothing; it may be filled by another package's installation script.
func (t *Tree) needs(name string) ([]string, error) {
	f := t.files[name]
	if f.Symlink != "" {
		to := target(name, f.Symlink)
		if _, ok := t.files[to]; ok {
			return []string{to}, nil
		}
		return nil, nil
	}
	if !bytes.HasPrefix(f.Data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	linked, err := linkedAgainst(f.Data)
	if err != nil {
		return nil, fmt.Errorf("%s: reading what it is linked against: %w", name, err)
	}
	for i, need := range linked {
		if linked[i] = t.find(need); linked[i] == "" {
			return nil, fmt.Errorf("%s needs %s, which is in none of the packages %s", name, need, strings.Join(t.versions, ", "))
		}
	}
	return linked, nil
}

// linkedAgainst returns the loader, a path, and the libraries, bare names.
func linkedAgainst(program []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}
	needs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, err
		}
		needs = append(needs, string(bytes.TrimRight(loader, "\x00")))
	}
	return needs, nil
}

// find looks where Debian's loader does, there being no ld.so.cache: in
// /usr/lib and in the architecture's folder below it.
func (t *Tree) find(need string) string {
	if path.IsAbs(need) {
		if _, ok := t.files[usrMerge(need)]; ok {
			return usrMerge(need)
		}
		return ""
	}
	for name := range t.files {
		dir := path.Dir(name)
		inLib := dir == "/usr/lib" || (path.Dir(dir) == "/usr/lib" && strings.Contains(dir, "-linux-gnu"))
		if inLib && path.Base(name) == need {
			return name
		}
	}
	return ""
}
