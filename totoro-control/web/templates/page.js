"use strict";
// Copies the text of an element; where the clipboard is not ours to write, marks it for the person.
function offerCopies(within) {
  for (const button of within.querySelectorAll("[data-copy]")) {
    const text = document.getElementById(button.dataset.copy);
    const label = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text.textContent);
        button.textContent = button.dataset.done;
        setTimeout(() => { button.textContent = label; }, 2000);
      } catch {
        getSelection().selectAllChildren(text);
      }
    });
  }
}
offerCopies(document);

// Says while a code is typed whether it can be one: `tn1`, 20 symbols of Crockford's base32, and the
// number that they are modulo 37 as a check symbol; a QR code writes the last five of those U0 to U4.
function judge(typed) {
  const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";
  const read = { O: "0", I: "1", L: "1" };
  if (typed.length > 64) return "foreign";
  const text = [...typed.trim().toUpperCase()].filter((c) => c !== "-").map((c) => read[c] || c).join("");
  if (!"TN1".startsWith(text.slice(0, 3))) return "foreign";
  const values = [...text.slice(3)].map((c) => alphabet.indexOf(c));
  if (values.includes(-1) || values.slice(0, 20).some((v) => v > 31)) return "foreign";
  if (values.length < 21) return 21 - values.length;
  let check = values[20];
  if (check === 36 && values.length === 22 && values[21] < 5) check = 32 + values[21];
  else if (values.length > 21) return "foreign";
  return values.slice(0, 20).reduce((sum, v) => (sum * 32 + v) % 37, 0) === check ? "good" : "typo";
}
for (const input of document.querySelectorAll("[data-code]")) {
  const says = document.getElementById(input.getAttribute("aria-describedby"));
  const hint = says.textContent;
  const look = () => {
    const verdict = input.value.trim() ? judge(input.value) : "";
    const bad = verdict === "typo" || verdict === "foreign";
    says.textContent = verdict === "" ? hint : typeof verdict === "number" ? `${verdict} ${input.dataset.more}` : input.dataset[verdict];
    says.className = bad ? "hint bad" : verdict === "good" ? "hint good" : "hint";
    input.toggleAttribute("aria-invalid", bad);
  };
  input.addEventListener("input", look);
  look();
}
