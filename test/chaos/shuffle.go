package chaos

import "math/rand/v2"

// Deck deals numbers at random, each once before any comes again. Equal seeds deal equally.
type Deck struct {
	Rand *rand.Rand
	size int
	left []int
}

// NewDeck returns a deck of the numbers from 0 to size-1.
func NewDeck(seed uint64, size int) *Deck {
	return &Deck{Rand: rand.New(rand.NewPCG(seed, 0)), size: size}
}

// Deal returns the next number.
func (d *Deck) Deal() int {
	if len(d.left) == 0 {
		d.left = d.Rand.Perm(d.size)
	}
	next := d.left[0]
	d.left = d.left[1:]
	return next
}
