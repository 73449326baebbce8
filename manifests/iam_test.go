package manifests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/compute/v1"
	"sigs.k8s.io/yaml"
)

const iamRole = "iam-role.yaml"

// permissionsOf maps methods of the Compute API to the permissions that they need, from
// https://cloud.google.com/compute/docs/reference/rest/v1.
var permissionsOf = map[string][]string{
	"Firewalls.Get":            {"compute.firewalls.get"},
	"Firewalls.List":           {"compute.firewalls.list"},
	"Firewalls.Insert":         {"compute.firewalls.create", "compute.networks.updatePolicy"},
	"Firewalls.Patch":          {"compute.firewalls.get", "compute.firewalls.update", "compute.networks.updatePolicy"},
	"Firewalls.Delete":         {"compute.firewalls.delete", "compute.networks.updatePolicy"},
	"GlobalOperations.Wait":    {"compute.globalOperations.get"},
	"Instances.Get":            {"compute.instances.get"},
	"Instances.AggregatedList": {"compute.instances.list"},
}

func TestTheIAMRoleHasExactlyThePermissionsUsed(t *testing.T) {
	var role struct {
		Title, Description, Stage string
		IncludedPermissions       []string
	}
	if err := yaml.UnmarshalStrict(read(t, files(t, iamRole)[0]), &role); err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, method := range calledMethods(t) {
		permissions, known := permissionsOf[method]
		if !known {
			t.Errorf("the code calls %s of the Compute API: add its permissions to permissionsOf", method)
		}
		for _, p := range permissions {
			needed[p] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(needed)), role.IncludedPermissions); diff != "" {
		t.Errorf("%s (-needed +included):\n%s", iamRole, diff)
	}
}

// calledMethods returns the methods of the Compute API that the product's source calls, as
// "Firewalls.Get", each once.
func calledMethods(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	for _, file := range computeUsers(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if method, ok := apiMethod(n); ok {
				found[method] = true
			}
			return true
		})
	}
	if len(found) == 0 {
		t.Fatal("no call of the Compute API found")
	}
	return slices.Sorted(maps.Keys(found))
}

// apiMethod recognises x.Firewalls.Get by the fields of compute.Service and their methods.
func apiMethod(n ast.Node) (string, bool) {
	method, ok := n.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	resource, ok := method.X.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	field, ok := reflect.TypeFor[compute.Service]().FieldByName(resource.Sel.Name)
	if !ok {
		return "", false
	}
	_, ok = field.Type.MethodByName(method.Sel.Name)
	return resource.Sel.Name + "." + method.Sel.Name, ok
}

// computeUsers parses the product's files that import the Compute API.
func computeUsers(t *testing.T) []*ast.File {
	t.Helper()
	var users []*ast.File
	for _, root := range []string{"cmd", "firewall", "internal", "provider"} {
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err == nil && imports(file, "google.golang.org/api/compute/v1") {
				users = append(users, file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return users
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"`+path+`"` })
}

// calledMethods does not find calls of a resource in a variable.
func TestComputeCallsAreWrittenOut(t *testing.T) {
	for _, file := range computeUsers(t) {
		uses, calls := 0, 0
		ast.Inspect(file, func(n ast.Node) bool {
			if _, ok := apiMethod(n); ok {
				calls++
			}
			if resource, ok := n.(*ast.SelectorExpr); ok && isServiceField(resource) {
				uses++
			}
			return true
		})
		if uses != calls {
			t.Errorf("package %s: %d uses of resources of the Compute API, but %d calls of their methods", file.Name.Name, uses, calls)
		}
	}
}

// isServiceField recognises c.service.Firewalls.
func isServiceField(resource *ast.SelectorExpr) bool {
	service, ok := resource.X.(*ast.SelectorExpr)
	return ok && service.Sel.Name == "service"
}
