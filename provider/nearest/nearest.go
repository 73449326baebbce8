// Package nearest finds the known word that someone who mistyped one probably
// meant.
package nearest

import "strings"

// To returns the word among known that takes the fewest single-letter edits to
// reach from word, capitals aside, and whether it is near enough to be worth
// suggesting. Of equally near words the first wins.
func To(word string, known []string) (string, bool) {
	word = strings.ToLower(word)
	best, least := "", len(word)/2+1
	for _, candidate := range known {
		if d := distance(word, strings.ToLower(candidate)); d < least {
			best, least = candidate, d
		}
	}
	return best, best != ""
}

// Hint is a half-sentence for an error message: `, did you mean "x"?`, or
// nothing.
func Hint(word string, known []string) string {
	if meant, ok := To(word, known); ok {
		return `, did you mean "` + meant + `"?`
	}
	return ""
}

// distance is Levenshtein's, with one row of the table at a time.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
