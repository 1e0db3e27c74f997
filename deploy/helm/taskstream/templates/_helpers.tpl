{{- define "taskstream.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 48 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 48 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "taskstream.labels" -}}
app.kubernetes.io/name: taskstream
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{/* The image of a part, whose own tag wins: an upgrade replaces the workers first. */}}
{{- define "taskstream.image" -}}
{{- $image := .root.Values.image }}
{{- if and $image.digest (not .part.tag) }}{{ $image.repository }}@{{ $image.digest }}{{ else }}{{ $image.repository }}:{{ coalesce .part.tag $image.tag .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The environment that API and worker share. */}}
{{- define "taskstream.environment" -}}
{{- $name := include "taskstream.name" . -}}
{{- if .Values.nats.enabled }}
- name: TASKSTREAM_NATS_URL
  value: {{ range $i := until (int .Values.nats.replicas) }}{{ if $i }},{{ end }}nats://{{ $.Release.Name }}-nats-{{ $i }}.{{ $.Release.Name }}-nats:4222{{ end }}
- name: TASKSTREAM_NATS_MONITOR_URL
  value: http://{{ .Release.Name }}-nats-0.{{ .Release.Name }}-nats:8222
- name: TASKSTREAM_NATS_USER
  value: taskstream
- name: TASKSTREAM_REPLICAS
  value: {{ min 3 (int .Values.nats.replicas) | quote }}
{{- else }}
- name: TASKSTREAM_NATS_URL
  value: {{ required "externalNats.url: the URLs of the NATS servers, or nats.enabled: true" .Values.externalNats.url | quote }}
{{- with .Values.externalNats.monitorUrl }}
- name: TASKSTREAM_NATS_MONITOR_URL
  value: {{ . | quote }}
{{- end }}
- name: TASKSTREAM_NATS_USER
  value: {{ .Values.externalNats.user | quote }}
- name: TASKSTREAM_REPLICAS
  value: {{ .Values.externalNats.replicas | quote }}
{{- end }}
- name: TASKSTREAM_NATS_PASSWORD_FILE
  value: /run/secrets/taskstream/nats-password
- name: TASKSTREAM_JWT_SECRET_FILE
  value: /run/secrets/taskstream/jwt-secret
- name: TASKSTREAM_SEAL_KEYS_FILE
  value: /run/secrets/taskstream/seal-keys
- name: TASKSTREAM_PUBLIC_URL
  value: {{ .Values.publicUrl | default (printf "http://%s-api:%v" $name .Values.service.port) | quote }}
{{- $secret := list "JWT_SECRET" "JWT_OLD_SECRETS" "SEAL_KEYS" "NATS_PASSWORD" "NATS_TOKEN" "METRICS_TOKEN" }}
{{- $own := list "HOST" "PORT" "DATA_DIR" "INDEX_DIR" "NATS_URL" "NATS_USER" "NATS_MONITOR_URL" "REPLICAS" "PUBLIC_URL" "DRAIN" "SHUTDOWN_GRACE" "METRICS_PORT" }}
{{- range $key, $value := .Values.settings }}
{{- $short := trimPrefix "TASKSTREAM_" $key }}
{{- if has $short $secret }}
{{- fail (printf "settings.%s is a secret: put it into the Secret %s, and set %s_FILE" $key $.Values.global.secret $key) }}
{{- end }}
{{- if has $short $own }}
{{- fail (printf "settings.%s is set by another value of this chart; see values.yaml" $key) }}
{{- end }}
- name: {{ $key }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "taskstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "taskstream.containerSecurity" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
{{- end }}

{{/* One pod per machine, as far as there are machines. */}}
{{- define "taskstream.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      app.kubernetes.io/instance: {{ .instance }}
      app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "taskstream.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ required "global.secret: the name of the Secret with jwt-secret, seal-keys and nats-password" .Values.global.secret }}
    defaultMode: 0440
{{- end }}
