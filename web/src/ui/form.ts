/** What the forms of the page have in common. */

import type { Model } from "../protocol/types";
import { byId, make, setText } from "./dom";

/** Enter sends, Shift and Enter begin a new line. */
export function submitOnEnter(field: HTMLTextAreaElement, submit: () => void): void {
  field.addEventListener("keydown", (event) => {
    // `isComposing`: Enter ends a word in many input methods.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
}

/** Examples that are typed into the field by pressing them. */
export function addChips(list: string, texts: readonly string[], field: HTMLTextAreaElement): void {
  const chips = texts.map((text) => {
    const chip = make("button", "chip", text);
    chip.type = "button";
    chip.addEventListener("click", () => {
      field.value = text;
      field.focus();
    });
    return chip;
  });
  byId(list, HTMLElement).append(...chips);
}

/** Offers the models; what was chosen stays chosen, and the server's default is chosen first. */
export function offerModels(select: HTMLSelectElement, models: readonly Model[]): void {
  const chosen = select.value || (models.find((model) => model.default)?.name ?? "");
  select.replaceChildren(...models.map((model) => new Option(model.name, model.name)));
  if (models.some((model) => model.name === chosen)) select.value = chosen;
}

/** Says in short what a closed fold holds; its line breaks between two settings, and not within one. */
export function summarize(id: string, settings: readonly string[]): void {
  const whole = settings.filter((setting) => setting !== "").map((setting) => setting.replaceAll(" ", "\u00a0"));
  setText(byId(id, HTMLElement), whole.join("\u00a0· "));
}

/** Whether this is what a seed can be, or nothing. */
export function isSeed(text: string): boolean {
  return /^\d*$/.test(text.trim()) && Number.isSafeInteger(Number(text));
}

/** The first field whose number the browser itself can see is wrong, and what to say. */
export function wrongNumber(
  fields: readonly (readonly [HTMLInputElement, string])[],
): { field: HTMLInputElement; message: string } | null {
  for (const [field, name] of fields) {
    const { badInput, rangeOverflow, rangeUnderflow } = field.validity;
    if (!badInput && !rangeOverflow && !rangeUnderflow) continue;
    return { field, message: `${name} is a number from ${field.min} to ${field.max}.` };
  }
  return null;
}

/**
 * Takes a picture that is dropped on the form, or pasted while the form is shown: what is pasted while another part of the
 * page is shown is meant for that. `hover` is told when a file is above the form.
 */
export function listenForPictures(
  form: HTMLFormElement,
  drop: HTMLElement,
  hover: () => void,
  take: (file: File) => void,
  problem: (message: string) => void,
): void {
  const firstPicture = (data: DataTransfer | null) =>
    [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
  form.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.add("hot");
    hover();
  });
  form.addEventListener("dragleave", () => drop.classList.remove("hot"));
  form.addEventListener("drop", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    drop.classList.remove("hot");
    const file = firstPicture(event.dataTransfer);
    if (file) take(file);
    else problem("This file is not a picture.");
  });
  document.addEventListener("paste", (event) => {
    const file = firstPicture(event.clipboardData);
    if (!file || form.offsetParent === null) return;
    event.preventDefault();
    take(file);
  });
}
