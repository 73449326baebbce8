package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"strings"
	"testing"
)

// archive returns a tar archive of one file.
func archive(t *testing.T, name, content string) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func compressed(t *testing.T, content string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestCompareNamesWhatDiffers(t *testing.T) {
	for _, tt := range []struct {
		name          string
		first, second map[string]string
		want          []string
	}{
		{name: "nothing", first: map[string]string{"a": "1", "b": ""}, second: map[string]string{"a": "1", "b": ""}},
		{
			name: "a line", first: map[string]string{"a": "1", "b": "1\n2\n3"}, second: map[string]string{"a": "1", "b": "1\nx\n3"},
			want: []string{`b differs in line 2: "2" in the first, "x" in the second`},
		},
		{
			name: "the length", first: map[string]string{"b": "1\n2"}, second: map[string]string{"b": "1"},
			want: []string{`b differs in line 2: "2" in the first, nothing in the second`},
		},
		{
			name: "a file", first: map[string]string{"a": ""}, second: map[string]string{"a": "", "b": ""},
			want: []string{`the first has the files ["a"], the second ["a" "b"]`},
		},
		{
			name:  "entries of archives",
			first: map[string]string{"a.tar": archive(t, "blob", "1"), "b.tgz": compressed(t, archive(t, "file", "1"))},

			second: map[string]string{"a.tar": archive(t, "blob", "2"), "b.tgz": compressed(t, archive(t, "other", "1"))},
			want:   []string{`a.tar differs in entry 1: "blob 644 6b86b273`, `b.tgz differs in entry 1: "file 644 6b86b273`, `in the second`, `"other 644`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, second := t.TempDir(), t.TempDir()
			for name, content := range tt.first {
				write(t, first, name, content)
			}
			for name, content := range tt.second {
				write(t, second, name, content)
			}
			err := compare(first, second)
			if (err == nil) != (tt.want == nil) {
				t.Fatalf("compare() = %v, want %q", err, tt.want)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("compare() = %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestSumsAreSorted(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "b", "1")
	write(t, dir, "a", "")
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	want := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n" +
		"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b  b\n"
	if got := read(t, dir+"/SHA256SUMS"); got != want {
		t.Errorf("SHA256SUMS:\n%swant:\n%s", got, want)
	}
}
