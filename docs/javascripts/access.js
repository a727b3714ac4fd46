// What the theme leaves out for those who use a keyboard or a screen reader.
function complete() {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap")) {
    wide.tabIndex = 0;
  }
  for (const dialog of document.querySelectorAll('[role="dialog"]:not([aria-label])')) {
    dialog.setAttribute("aria-label", "Search");
  }
}
complete();
new MutationObserver(complete).observe(document.body, { childList: true, subtree: true });
