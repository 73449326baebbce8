package main

import (
	"fmt"
	"math"
	"strings"
)

// sample is a figure measured with some Services and nodes.
type sample struct{ Services, Nodes, Value float64 }

// costs is how a figure depends on the numbers of Services and nodes: a constant, and shares of each
// Service, of each node, and of each Service on each node.
type costs [4]float64

var units = [4]string{"", "per Service", "per node", "per Service and node"}

func terms(services, nodes float64) costs { return costs{1, services, nodes, services * nodes} }

// at returns what the costs predicts.
func (m costs) at(services, nodes float64) float64 {
	sum := 0.0
	for i, t := range terms(services, nodes) {
		sum += m[i] * t
	}
	return sum
}

func (m costs) String() string {
	var parts []string
	for i, share := range m {
		if share > 0 {
			parts = append(parts, strings.TrimSpace(fmt.Sprintf("%.2g %s", share, units[i])))
		}
	}
	if len(parts) == 0 {
		return "0"
	}
	return strings.Join(parts, " + ")
}

// fit returns the costs with the least sum of squared relative errors among those without negative
// shares. It reports whether there are enough samples.
func fit(samples []sample) (best costs, ok bool) {
	least := math.Inf(1)
	for used := 1; used < 1<<len(best); used++ {
		var columns []int
		for i := range best {
			if used&(1<<i) != 0 {
				columns = append(columns, i)
			}
		}
		m, solved := leastSquares(samples, columns)
		if !solved || len(columns) >= len(samples) {
			continue
		}
		// A term has to explain more than rounding does.
		if e := relativeError(m, samples); e < 0.999*least-1e-12 {
			best, least, ok = m, e, true
		}
	}
	return best, ok
}

func relativeError(m costs, samples []sample) float64 {
	sum := 0.0
	for _, s := range samples {
		sum += math.Pow(m.at(s.Services, s.Nodes)/s.Value-1, 2)
	}
	return sum
}

// leastSquares returns the costs with only these terms that fits best, if there is one without
// negative shares.
func leastSquares(samples []sample, columns []int) (m costs, ok bool) {
	// The normal equations, in the form matrix · shares = vector.
	matrix, vector := make([][]float64, len(columns)), make([]float64, len(columns))
	for r, row := range columns {
		matrix[r] = make([]float64, len(columns))
		for _, s := range samples {
			if s.Value <= 0 {
				return m, false
			}
			t := terms(s.Services, s.Nodes)
			for c, column := range columns {
				matrix[r][c] += t[row] * t[column] / (s.Value * s.Value)
			}
			vector[r] += t[row] / s.Value
		}
	}
	shares, ok := solve(matrix, vector)
	for i, column := range columns {
		if ok = ok && shares[i] >= 0; !ok {
			return m, false
		}
		m[column] = shares[i]
	}
	return m, ok
}

// solve solves a system of linear equations by elimination, in place; not ok if there is no single
// solution.
func solve(matrix [][]float64, vector []float64) (x []float64, ok bool) {
	n := len(vector)
	for i := range n {
		pivot := i
		for r := i; r < n; r++ {
			if math.Abs(matrix[r][i]) > math.Abs(matrix[pivot][i]) {
				pivot = r
			}
		}
		scale := math.Abs(matrix[pivot][i])
		if scale < 1e-12 {
			return nil, false
		}
		matrix[i], matrix[pivot], vector[i], vector[pivot] = matrix[pivot], matrix[i], vector[pivot], vector[i]
		for r := range n {
			if r == i {
				continue
			}
			factor := matrix[r][i] / matrix[i][i]
			for c := range n {
				matrix[r][c] -= factor * matrix[i][c]
			}
			vector[r] -= factor * vector[i]
		}
	}
	for i := range n {
		vector[i] /= matrix[i][i]
	}
	return vector, true
}

// Beyond what is measured.
const farServices, farNodes = 10_000, 5_000

// growing are the figures whose growth is shown.
func growing() []figure {
	return []figure{
		{"all statuses right after creation, s", "", of(created, seconds), "%.1f"},
		{"CPU of the creation, s", "", of(created, cpu), "%.1f"},
		{"writes of the creation", "", of(created, writes), "%.0f"},
		{"resident memory at its peak, MiB", "", func(r result) float64 { return mib(r.Peak) }, "%.0f"},
		{"restart with nothing changed, s", "", of(restarted, seconds), "%.1f"},
		{down + ", s", "", of(down, seconds), "%.1f"},
	}
}

// growthTable shows how figures of the direct scenes grow and what follows for many more. It is
// empty if there are too few scenes.
func growthTable(results []result) [][]string {
	rows := [][]string{{"figure", "the measured values fit", "error at most", fmt.Sprintf("extrapolated to %d Services × %d nodes", farServices, farNodes)}}
	for _, f := range growing() {
		var samples []sample
		for _, r := range results {
			if r.Scene.Proxied == 0 {
				samples = append(samples, sample{float64(r.Scene.Direct), float64(r.Scene.Nodes), f.of(r)})
			}
		}
		m, ok := fit(samples)
		if !ok {
			continue
		}
		worst := 0.0
		for _, s := range samples {
			worst = max(worst, math.Abs(m.at(s.Services, s.Nodes)/s.Value-1))
		}
		rows = append(rows, []string{f.Name, m.String(), fmt.Sprintf("%.0f %%", 100*worst), fmt.Sprintf(f.format, m.at(farServices, farNodes))})
	}
	if len(rows) == 1 {
		return nil
	}
	return rows
}
