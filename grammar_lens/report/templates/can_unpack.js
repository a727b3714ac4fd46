// Without it, as without scripts, the page shows words in place of figures.
if ("DecompressionStream" in window) document.documentElement.classList.remove("plain");
