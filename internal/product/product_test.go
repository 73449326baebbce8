package product

import "testing"

func TestAnImageThatIsTooLargeIsRefused(t *testing.T) {
	p := Product{Name: "thing", Limit: 15 * mib}
	want := "image thing has 16.0 MiB compressed, but may have 15: look for a new dependency, or raise the limit in internal/product"
	if err := p.CheckSize(16 * mib); err == nil || err.Error() != want {
		t.Errorf("CheckSize() = %v, want %s", err, want)
	}
	if err := p.CheckSize(15 * mib); err != nil {
		t.Errorf("CheckSize() at the limit = %v", err)
	}
}
