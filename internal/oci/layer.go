package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// newLayer compresses the files once and keeps the result: a layer that
// compresses on demand would do so for its digest and again for every write.
func newLayer(files []File, level int) (v1.Layer, error) {
	files, err := normalize(files)
	if err != nil {
		return nil, err
	}
	var compressed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&compressed, level)
	if err != nil {
		return nil, fmt.Errorf("gzip level %d: %w", level, err)
	}
	if err := writeTar(zip, files); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(compressed.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
}

// normalize cleans the paths, adds the directories above them and sorts, so
// that a directory precedes what is in it and the caller's order leaves no
// trace.
func normalize(files []File) ([]File, error) {
	byPath := make(map[string]File, len(files))
	for _, f := range files {
		clean, err := cleanPath(f.Path)
		if err != nil {
			return nil, err
		}
		if _, twice := byPath[clean]; twice {
			return nil, fmt.Errorf("file %s is listed twice", f.Path)
		}
		f.Path = clean
		byPath[clean] = f
	}
	for name := range byPath {
		if err := addParents(byPath, name); err != nil {
			return nil, err
		}
	}
	sorted := make([]File, 0, len(byPath))
	for _, f := range byPath {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return sorted, nil
}

func cleanPath(name string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" || slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("file path %q: want a path below the image's root, without \"..\"", name)
	}
	return clean, nil
}

func addParents(byPath map[string]File, name string) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		parent, ok := byPath[dir]
		if !ok {
			byPath[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
		} else if !parent.Mode.IsDir() {
			return fmt.Errorf("file %s lies below %s, which is not a directory", name, dir)
		}
	}
	return nil
}

func writeTar(w io.Writer, files []File) error {
	archive := tar.NewWriter(w)
	for _, f := range files {
		if err := writeFile(archive, f); err != nil {
			return fmt.Errorf("adding %s: %w", f.Path, err)
		}
	}
	return archive.Close()
}

func writeFile(archive *tar.Writer, f File) error {
	content, err := f.content()
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(f.header(len(content))); err != nil {
		return err
	}
	_, err = archive.Write(content)
	return err
}

func (f File) content() ([]byte, error) {
	set := 0
	for _, is := range []bool{f.Source != "", f.Data != nil, f.Symlink != "", f.Mode.IsDir()} {
		if is {
			set++
		}
	}
	if set > 1 {
		return nil, fmt.Errorf("only one of Source, Data, Symlink and the directory mode may be set")
	}
	if f.Source != "" {
		return os.ReadFile(f.Source)
	}
	return f.Data, nil
}

func (f File) header(size int) *tar.Header {
	h := &tar.Header{Name: f.Path, ModTime: epoch, Mode: f.tarMode(), Typeflag: tar.TypeReg, Size: int64(size), Format: tar.FormatPAX}
	switch {
	case f.Symlink != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Symlink, 0o777
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
	}
	return h
}

// tarMode gives the bits as tar has them: Go keeps setuid and its like apart
// from where Unix has them.
func (f File) tarMode() int64 {
	mode := int64(f.Mode.Perm())
	if mode == 0 {
		mode = 0o644
		if f.Mode.IsDir() {
			mode = 0o755
		}
	}
	for bit, unix := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			mode |= unix
		}
	}
	return mode
}
