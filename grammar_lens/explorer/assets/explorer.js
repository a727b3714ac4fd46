// What Dash's own controls lack: radio groups and lists that a screen reader knows, whose choice goes
// into the dcc.Store named by data-store, values that count once typing or dragging pauses, and an
// address (its fragment) that holds the whole view.
(() => {
  const PAUSE = 250; // milliseconds
  const waiting = {};
  let acted = false; // whether the user did something since the address was last written
  let written = null; // the fragment that the page shows

  const buttonsOf = (store) =>
    [...document.querySelectorAll('button[role="radio"]')].filter((b) => b.dataset.store === store);
  const choose = (store, value) => window.dash_clientside.set_props(store, { data: value });

  for (const kind of ["pointerdown", "focusin", "keydown"])
    document.addEventListener(kind, () => { acted = true; }, true);
  const arrive = () => ({ hash: (written = location.hash) });
  window.addEventListener("popstate", () => {
    if (location.hash !== written) window.dash_clientside.set_props("link", { data: arrive() });
  });
  document.addEventListener("click", (event) => {
    // the fragment is taken, so that links within the page scroll by themselves
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.getAttribute("href").slice(1));
    if (!target) return;
    event.preventDefault();
    target.scrollIntoView();
    target.tabIndex = -1;
    target.focus({ preventScroll: true });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest('button[role="radio"]');
    if (button) choose(button.dataset.store, button.value);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-store]")) choose(event.target.dataset.store, event.target.value);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches('button[role="radio"]')) return;
    event.preventDefault();
    const group = buttonsOf(event.target.dataset.store);
    const next = group[(group.indexOf(event.target) + step + group.length) % group.length];
    next.focus();
    choose(next.dataset.store, next.value);
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explorer: {
      mark: (value, store) => {
        for (const button of buttonsOf(store)) {
          const chosen = button.value === value;
          button.setAttribute("aria-checked", chosen);
          button.tabIndex = chosen ? 0 : -1;
        }
      },
      arrive,
      // one entry of the history for each thing done; what follows from it changes that entry
      remember: (...view) => {
        const names = view.pop();
        const known = names.map((name, i) => [name, view[i]]).filter(([, value]) => value !== null && value !== undefined);
        const hash = `#${new URLSearchParams(known)}`;
        if (hash === location.hash) return;
        history[acted && written !== null ? "pushState" : "replaceState"](null, "", hash);
        written = hash;
        acted = false;
      },
      select: (score) => {
        setTimeout(() => {
          const list = document.getElementById("score-list");
          if (list) list.value = score;
        });
        return "";
      },
      tell: (value) => String(value).replace("-", "\u2212"),
      press: (chosen) => {
        // once the list is there
        setTimeout(() => {
          for (const button of document.querySelectorAll("button[data-neuron]"))
            button.setAttribute("aria-pressed", button.dataset.neuron === chosen);
        });
      },
      settle: (value, name) => {
        clearTimeout(waiting[name]);
        waiting[name] = setTimeout(() => choose(`${name}-settled`, value), PAUSE);
        return window.dash_clientside.no_update;
      },
    },
  });
})();
