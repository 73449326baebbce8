package hardware

import "testing"

func TestField(t *testing.T) {
	const text = "processor\t: 0\nmodel name\t: Some CPU @ 2.0 GHz\nmodel name\t: Another\nMemTotal:       24 kB\n"
	for name, want := range map[string]string{"model name": "Some CPU @ 2.0 GHz", "MemTotal": "24 kB", "name": "unknown"} {
		if got := Field(text, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestDescribeKnowsThisMachine(t *testing.T) {
	d, err := Describe()
	if err != nil || d.CPU == "" || d.Kernel == "" || d.Cores < 1 || d.Load == "" || d.Date.IsZero() {
		t.Errorf("got %+v, %v", d, err)
	}
}
