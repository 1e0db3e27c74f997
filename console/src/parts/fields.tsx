/** Fields of forms: a label, a control, what it means, and the service's refusal beside it. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import type { ApiError } from "../api/client.ts";

interface Common {
  label: string;
  hint?: ComponentChildren;
  error?: string | null;
  required?: boolean;
  disabled?: boolean;
}

export function Field({
  label,
  hint,
  error,
  required,
  children,
}: Common & {
  children: (attributes: { id: string; "aria-describedby"?: string; "aria-invalid"?: "true" }) => ComponentChildren;
}) {
  const id = useId();
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return (
    <div class={`field ${error ? "field-wrong" : ""}`}>
      <label for={id}>
        {label}
        {required && <span class="muted"> (required)</span>}
      </label>
      {children({ id, "aria-describedby": described || undefined, "aria-invalid": error ? "true" : undefined })}
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      {error && (
        <p class="field-error" id={`${id}-error`}>
          {error}
        </p>
      )}
    </div>
  );
}

export function TextField({
  value,
  onChange,
  type = "text",
  placeholder,
  list,
  autofocus,
  ...common
}: Common & {
  value: string;
  onChange: (value: string) => void;
  type?: "text" | "password" | "number" | "url" | "search";
  placeholder?: string;
  list?: string;
  autofocus?: boolean;
}) {
  return (
    <Field {...common}>
      {(attributes) => (
        <input
          {...attributes}
          type={type as "text"}
          value={value}
          placeholder={placeholder}
          list={list}
          required={common.required}
          disabled={common.disabled}
          autofocus={autofocus}
          autocomplete="off"
          spellcheck={false}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}

export function TextArea({
  value,
  onChange,
  rows = 6,
  mono,
  ...common
}: Common & { value: string; onChange: (value: string) => void; rows?: number; mono?: boolean }) {
  return (
    <Field {...common}>
      {(attributes) => (
        <textarea
          {...attributes}
          class={mono ? "mono" : ""}
          rows={rows}
          value={value}
          disabled={common.disabled}
          spellcheck={false}
          onInput={(event) => onChange(event.currentTarget.value)}
        />
      )}
    </Field>
  );
}

export function SelectField({
  value,
  onChange,
  options,
  ...common
}: Common & { value: string; onChange: (value: string) => void; options: [value: string, label: string][] }) {
  return (
    <Field {...common}>
      {(attributes) => (
        <select
          {...attributes}
          value={value}
          disabled={common.disabled}
          onChange={(event) => onChange(event.currentTarget.value)}
        >
          {options.map(([each, label]) => (
            <option key={each} value={each}>
              {label}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
}

export function CheckField({
  label,
  value,
  onChange,
  hint,
  disabled,
}: Common & { value: boolean; onChange: (value: boolean) => void }) {
  const id = useId();
  return (
    <div class="field field-check">
      <input
        id={id}
        type="checkbox"
        checked={value}
        disabled={disabled}
        aria-describedby={hint ? `${id}-hint` : undefined}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <label for={id}>{label}</label>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

/** Return the service's refusal if it is about this place in the request, such as `$.payload.width`. */
export function errorAt(error: ApiError | null, path: string): string | null {
  return error?.problem.path === path ? error.problem.detail : null;
}
