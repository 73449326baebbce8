package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// File is a file, a directory or a symbolic link. A directory or link has no Data.
type File struct {
	// Path starts at the image's root, with or without a slash. Parent directories that are not
	// listed are added with mode 0755.
	Path string
	// Mode holds the permission bits of Unix. Zero means 0755 for a directory, 0644 for a file.
	Mode int64
	Data []byte
	// Dir makes it a directory.
	Dir bool
	// Symlink makes it a link to this target.
	Symlink string
}

// tarOf returns a tar archive of the files, sorted by path, a directory before its content.
func tarOf(files []File) ([]byte, error) {
	files = slices.Clone(files)
	for i, f := range files {
		files[i].Path = strings.TrimPrefix(f.Path, "/")
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	var out bytes.Buffer
	w := tarWriter{tar: tar.NewWriter(&out), types: map[string]byte{".": tar.TypeDir}}
	for _, f := range files {
		if err := w.add(f); err != nil {
			return nil, fmt.Errorf("adding %q: %w", f.Path, err)
		}
	}
	err := w.tar.Close()
	return out.Bytes(), err
}

type tarWriter struct {
	tar *tar.Writer
	// types holds the type flag of each path written.
	types map[string]byte
}

// add writes the file, after its parent directories. The header's zero owner is root, and its zero
// time is the Unix epoch.
func (w tarWriter) add(f File) error {
	if !fs.ValidPath(f.Path) {
		return errors.New("invalid path")
	}
	if _, ok := w.types[f.Path]; ok {
		return errors.New("path listed twice, or the root itself")
	}
	parent := path.Dir(f.Path)
	if _, ok := w.types[parent]; !ok {
		if err := w.add(File{Path: parent, Dir: true}); err != nil {
			return err
		}
	}
	if w.types[parent] != tar.TypeDir {
		return fmt.Errorf("%s is not a directory", parent)
	}
	h := tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: cmp.Or(f.Mode, 0o644), Size: int64(len(f.Data))}
	switch {
	case f.Dir:
		h.Typeflag, h.Name, h.Mode = tar.TypeDir, f.Path+"/", cmp.Or(f.Mode, 0o755)
	case f.Symlink != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Symlink, 0o777
	}
	w.types[f.Path] = h.Typeflag
	if err := w.tar.WriteHeader(&h); err != nil {
		return err
	}
	_, err := w.tar.Write(f.Data)
	return err
}
