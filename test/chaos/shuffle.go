package chaos

import "math/rand/v2"

// Shuffle returns numbers at random, each once before any comes again. Equal seeds give equal numbers.
type Shuffle struct {
	Rand *rand.Rand
	size int
	left []int
}

// NewShuffle returns a shuffle of the numbers from 0 to size-1.
func NewShuffle(seed uint64, size int) *Shuffle {
	return &Shuffle{Rand: rand.New(rand.NewPCG(seed, 0)), size: size}
}

// Next returns the next number.
func (s *Shuffle) Next() int {
	if len(s.left) == 0 {
		s.left = s.Rand.Perm(s.size)
	}
	next := s.left[0]
	s.left = s.left[1:]
	return next
}
