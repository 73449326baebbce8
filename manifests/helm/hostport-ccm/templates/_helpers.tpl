{{/* The objects of the manifests in a folder of files, in the namespace of the release. */}}
{{- define "hostport-ccm.manifests" -}}
{{- $root := index . 0 }}
{{- $files := $root.Files.Glob (printf "files/%s/*.yaml" (index . 1)) }}
{{- if not $files }}
{{- printf "the chart has no files/%s: it is a symbolic link in the repository, so use a file system that has these, or the package that `make chart` writes" (index . 1) | fail }}
{{- end }}
{{- range $path, $_ := $files }}
{{- if not (has (base $path) (list "kustomization.yaml" "namespace.yaml" "serviceaccount.yaml" "deployment.yaml")) }}
---
{{ $root.Files.Get $path | replace "hostport-system" $root.Release.Namespace }}
{{- end }}
{{- end }}
{{- end }}

{{/* The name of the ConfigMap. As with the overlays, it depends on the content: pods that run keep the cloud config
they started with, also if they are restarted while new ones fail for the new one. */}}
{{- define "hostport-ccm.cloudConfigName" -}}
hostport-cloud-config-{{ include "hostport-ccm.cloudConfig" . | sha256sum | trunc 10 }}
{{- end }}

{{/* The cloud config, complete. */}}
{{- define "hostport-ccm.cloudConfig" -}}
{{- $proxyImage := printf "%s:%s" .Values.proxyImage.repository (.Values.proxyImage.tag | default .Chart.AppVersion) }}
{{- $added := dict "proxyImage" $proxyImage "namespace" .Release.Namespace }}
{{- $loadBalancer := merge $added (.Values.cloudConfig.loadBalancer | default dict) }}
{{- $head := dict "apiVersion" "hostport-ccm.io/v1alpha1" "kind" "CloudConfig" "loadBalancer" $loadBalancer }}
{{- merge $head .Values.cloudConfig | toYaml }}
{{- end }}
