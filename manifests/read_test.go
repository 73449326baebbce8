// Package manifests has tests only: they check the manifests without a cluster, so that typing
// errors, superfluous rights and invalid examples are found before the manifests are applied.
package manifests

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

const (
	kustomization = "kustomization.yaml"
	cloudConfig   = "cloud-config.yaml"
)

// of returns the objects of one kind.
func of[T runtime.Object](t *testing.T) []T {
	t.Helper()
	var some []T
	for _, object := range objects(t) {
		if o, ok := object.(T); ok {
			some = append(some, o)
		}
	}
	if len(some) == 0 {
		t.Fatalf("no %T in the manifests", *new(T))
	}
	return some
}

// named returns the object with a name.
func named[T metav1.Object](t *testing.T, name string, objects []T) T {
	t.Helper()
	i := slices.IndexFunc(objects, func(o T) bool { return o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %T %s in the manifests", *new(T), name)
	}
	return objects[i]
}

// objects decodes all manifests.
func objects(t *testing.T) []runtime.Object {
	t.Helper()
	var all []runtime.Object
	for _, path := range files(t, "") {
		all = append(all, decode(t, path, documents(t, path))...)
	}
	return all
}

// decode decodes documents of a file. An unknown field is an error.
func decode(t *testing.T, path string, documents [][]byte) []runtime.Object {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		v1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, policyv1.AddToScheme, networkingv1.AddToScheme, admissionv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var all []runtime.Object
	for _, document := range documents {
		object, err := decodeOne(decoder, document)
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, document)
			continue
		}
		all = append(all, object)
	}
	return all
}

// decodeOne decodes a document. Those of the Prometheus operator have no certain type here: test/monitoring
// decodes them strictly.
func decodeOne(decoder runtime.Decoder, document []byte) (runtime.Object, error) {
	if bytes.Contains(document, []byte("apiVersion: monitoring.coreos.com/")) {
		object := &unstructured.Unstructured{}
		return object, yaml.Unmarshal(document, &object.Object)
	}
	object, _, err := decoder.Decode(document, nil, nil)
	return object, err
}

func documents(t *testing.T, path string) [][]byte {
	t.Helper()
	return split(t, path, read(t, path))
}

// split returns the documents of a YAML file.
func split(t *testing.T, path string, content []byte) [][]byte {
	t.Helper()
	var all [][]byte
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := reader.Read()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, document)
	}
}

// files returns the paths of all manifests with a name; with the empty name, of all with Kubernetes
// objects.
func files(t *testing.T, name string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && path == "helm" {
			return fs.SkipDir // its tests are in helm_test.go
		}
		base := filepath.Base(path)
		isObject := strings.HasSuffix(base, ".yaml") && !slices.Contains([]string{kustomization, cloudConfig, iamRole}, base)
		if err == nil && !d.IsDir() && (base == name || (name == "" && isObject)) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no %s found", name)
	}
	return found
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
