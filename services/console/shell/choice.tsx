// One of a few: radio buttons that look like one control.
import { useId } from "preact/hooks";

export interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [value: NoInfer<T>, name: string])[];
  onChoose(value: NoInfer<T>): void;
}

export function Choice<T extends string>({ label, value, options, onChoose }: ChoiceProps<T>) {
  const name = useId();
  return (
    <fieldset class="choice">
      <legend class="unseen">{label}</legend>
      {options.map(([option, words]) => (
        <label key={option}>
          <input type="radio" name={name} value={option} checked={option === value} onChange={() => onChoose(option)} />
          <span>{words}</span>
        </label>
      ))}
    </fieldset>
  );
}
