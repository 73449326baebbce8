package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// entry is one annotation or field on a page.
type entry struct{ Name, Type, Doc string }

func parseFile(module, path string) (*ast.File, error) {
	return parser.ParseFile(token.NewFileSet(), filepath.Join(module, path), nil, parser.ParseComments)
}

// prefixedConstants returns the documented constants of the form Prefix + "name", in the order of
// the source.
func prefixedConstants(f *ast.File) []entry {
	var found []entry
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		sum, ok := spec.Values[0].(*ast.BinaryExpr)
		if !ok || fmt.Sprint(sum.X) != "Prefix" {
			return true
		}
		if literal, ok := sum.Y.(*ast.BasicLit); ok {
			name, _ := strconv.Unquote(literal.Value)
			found = append(found, entry{Name: name, Doc: paragraph(spec.Doc, spec.Names[0].Name, name)})
		}
		return true
	})
	return found
}

// structFields returns the fields of a struct, and in place of a field that is a struct of the same
// file, its fields; after a list of such structs, the fields of an element. Names are those in JSON,
// dotted, after prefix.
func structFields(f *ast.File, structName, prefix string) ([]entry, error) {
	spec := findStruct(f, structName)
	if spec == nil {
		return nil, fmt.Errorf("there is no struct type %s", structName)
	}
	var found []entry
	for _, field := range spec.Fields.List {
		tag, _ := strconv.Unquote(field.Tag.Value)
		name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		if ident, ok := field.Type.(*ast.Ident); ok && findStruct(f, ident.Name) != nil {
			nested, err := structFields(f, ident.Name, prefix+name+".")
			if err != nil {
				return nil, err
			}
			found = append(found, nested...)
			continue
		}
		if list, ok := field.Type.(*ast.ArrayType); ok && findStruct(f, fmt.Sprint(list.Elt)) != nil {
			found = append(found, entry{Name: prefix + name, Type: "list", Doc: paragraph(field.Doc, field.Names[0].Name, name)})
			nested, err := structFields(f, fmt.Sprint(list.Elt), prefix+name+"[].")
			if err != nil {
				return nil, err
			}
			found = append(found, nested...)
			continue
		}
		found = append(found, entry{Name: prefix + name, Type: typeName(field.Type), Doc: paragraph(field.Doc, field.Names[0].Name, name)})
	}
	return found, nil
}

// findStruct returns the file's struct type of that name, or nil.
func findStruct(f *ast.File, name string) *ast.StructType {
	var found *ast.StructType
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == name {
			found, _ = spec.Type.(*ast.StructType)
		}
		return found == nil
	})
	return found
}

// typeName describes the type of a field to an author of the file.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.ArrayType:
		return "list of " + typeName(e.Elt) + "s"
	case *ast.Ident:
		if e.Name == "bool" || e.Name == "int" {
			return e.Name
		}
	case *ast.SelectorExpr:
		if e.Sel.Name == "Duration" || e.Sel.Name == "Toleration" {
			return strings.ToLower(e.Sel.Name)
		}
	}
	return "string" // Of a named type or not.
}

// paragraph returns a doc comment as one paragraph that begins with the name users write in place
// of Go's.
func paragraph(doc *ast.CommentGroup, goName, name string) string {
	text := strings.Join(strings.Fields(doc.Text()), " ")
	if rest, ok := strings.CutPrefix(text, goName+" "); ok {
		return "`" + name + "` " + rest
	}
	return text
}
