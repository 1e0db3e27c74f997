// Runs before the first paint: a late theme flashes white. Storage may be denied.
try {
  const { theme, density } = JSON.parse(localStorage.getItem("taskstream.preferences") ?? "{}");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  if (density === "comfortable" || density === "compact") document.documentElement.dataset.density = density;
} catch {
  // The system's theme.
}
