// Runs where the panel's style is loaded, with `this` the style element. The panel works without.
const panel = this.closest(".accelnb-panel");
if (panel && !panel.dataset.accelnb) {
  panel.dataset.accelnb = "ready";

  // Rows of buttons are radio groups to a screen reader.
  const describe = () => {
    for (const group of panel.querySelectorAll(".accelnb-choices")) {
      const row = group.closest(".accelnb-row");
      group.setAttribute("role", "radiogroup");
      group.setAttribute("aria-label", row.querySelector(".accelnb-label").textContent.trim());
      for (const choice of group.querySelectorAll("button")) {
        choice.setAttribute("role", "radio");
        choice.setAttribute("aria-checked", choice.classList.contains("accelnb-chosen"));
        choice.setAttribute("aria-description", choice.title);
      }
    }
    panel.querySelector(".accelnb-polite")?.setAttribute("role", "status");
  };
  describe();
  new MutationObserver(describe).observe(panel, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["class", "title"],
  });

  panel.addEventListener("click", (event) => {
    const button = event.target.closest(".accelnb-copy");
    if (!button) return;
    getSelection().selectAllChildren(button.parentElement.nextElementSibling);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

// Arrows go from choice to choice. The window hears keys before JupyterLab does, which would go
// to another cell.
if (!window.accelnbArrows) {
  window.accelnbArrows = true;
  window.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const group = event.target.closest?.(".accelnb-choices");
    if (!step || !group) return;
    event.preventDefault();
    event.stopPropagation();
    const choices = [...group.querySelectorAll("button:not(:disabled)")];
    const at = choices.indexOf(event.target);
    choices[(at + step + choices.length) % choices.length].focus();
  }, true);
}
