package options

import "github.com/spf13/cobra"

// Nearest returns the known name that is nearest to a mistyped one by edit distance, ignoring case,
// or "" if more than half of the mistyped name, or more than 10 characters, would have to change.
// The distance is that of cobra's suggestions for mistyped commands.
func Nearest(mistyped string, known []string) string {
	root := &cobra.Command{}
	for _, name := range known {
		root.AddCommand(&cobra.Command{Use: name, Run: func(*cobra.Command, []string) {}})
	}
	for distance := 1; distance <= min(len(mistyped)/2, 10); distance++ {
		root.SuggestionsMinimumDistance = distance
		if nearest := root.SuggestionsFor(mistyped); len(nearest) > 0 {
			return nearest[0]
		}
	}
	return ""
}
