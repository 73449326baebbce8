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

// file parses one Go file of the module.
func file(module, path string) (*ast.File, error) {
	return parser.ParseFile(token.NewFileSet(), filepath.Join(module, path), nil, parser.ParseComments)
}

// prefixed returns the documented constants of the form Prefix + "name", in the
// order of the source.
func prefixed(f *ast.File) []entry {
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
			found = append(found, entry{Name: name, Doc: sentence(spec.Doc.Text(), spec.Names[0].Name, name)})
		}
		return true
	})
	return found
}

// entry is one thing that a page describes.
type entry struct {
	Name, Type, Doc string
}

// fields returns the fields of a struct and of the structs in it, by their
// names in the file, dotted.
func fields(f *ast.File, structName, prefix string) ([]entry, error) {
	spec := structType(f, structName)
	if spec == nil {
		return nil, fmt.Errorf("there is no struct type %s", structName)
	}
	var found []entry
	for _, field := range spec.Fields.List {
		name := prefix + jsonName(field)
		kind := typeName(field.Type)
		if structType(f, kind) != nil {
			nested, err := fields(f, kind, name+".")
			if err != nil {
				return nil, err
			}
			found = append(found, nested...)
			continue
		}
		doc := sentence(field.Doc.Text(), field.Names[0].Name, jsonName(field))
		found = append(found, entry{Name: name, Type: fileType(kind), Doc: doc})
	}
	return found, nil
}

// structType returns the file's struct of that name, nil if it has none.
func structType(f *ast.File, name string) *ast.StructType {
	var found *ast.StructType
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == name {
			found, _ = spec.Type.(*ast.StructType)
		}
		return found == nil
	})
	return found
}

func jsonName(field *ast.Field) string {
	tag, _ := strconv.Unquote(field.Tag.Value)
	name, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
	return name
}

// typeName gives the last part of a type's name, with [] before a list's.
func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.ArrayType:
		return "[]" + typeName(e.Elt)
	}
	return fmt.Sprintf("%T", e)
}

// fileType is the type as somebody who writes the file sees it.
func fileType(kind string) string {
	if element, ok := strings.CutPrefix(kind, "[]"); ok {
		return "list of " + fileType(element) + "s"
	}
	switch kind {
	case "bool", "int", "string":
		return kind
	case "Duration":
		return "duration"
	case "Toleration":
		return "toleration"
	}
	return "string" // named types of strings, as in Provider
}

// sentence makes a doc comment one paragraph, with the name that users write in
// place of Go's.
func sentence(doc, goName, name string) string {
	text := strings.Join(strings.Fields(doc), " ")
	if rest, ok := strings.CutPrefix(text, goName+" "); ok {
		return "`" + name + "` " + rest
	}
	return text
}
