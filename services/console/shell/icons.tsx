// Line drawings, one stroke wide. Always beside words, so hidden from screen readers.
import type { ComponentChildren } from "preact";

function Icon({ children }: { children: ComponentChildren }) {
  return (
    <svg class="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

export const icons = {
  chat: () => (
    <Icon>
      <path d="M3.5 5.5a2 2 0 0 1 2-2h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H9l-3.5 3v-3a2 2 0 0 1-2-2z" />
    </Icon>
  ),
  pools: () => (
    <Icon>
      <path d="M2.5 6c2.5 0 2.5 1.6 5 1.6S10 6 12.5 6s2.5 1.6 5 1.6M2.5 10.2c2.5 0 2.5 1.6 5 1.6s2.5-1.6 5-1.6 2.5 1.6 5 1.6M2.5 14.4c2.5 0 2.5 1.6 5 1.6s2.5-1.6 5-1.6 2.5 1.6 5 1.6" />
    </Icon>
  ),
  experts: () => (
    <Icon>
      <path d="M3.5 3.5h5v5h-5zM11.5 3.5h5v5h-5zM3.5 11.5h5v5h-5zM11.5 11.5h5v5h-5z" />
    </Icon>
  ),
  requests: () => (
    <Icon>
      <path d="M3 5h6M7 10h7M11 15h6" />
    </Icon>
  ),
  auto: () => (
    <Icon>
      <circle cx="10" cy="10" r="6.5" />
      <path d="M10 3.5v13a6.5 6.5 0 0 0 0-13z" fill="currentColor" />
    </Icon>
  ),
  light: () => (
    <Icon>
      <circle cx="10" cy="10" r="3.5" />
      <path d="M10 1.8v2M10 16.2v2M1.8 10h2M16.2 10h2M4.2 4.2l1.4 1.4M14.4 14.4l1.4 1.4M4.2 15.8l1.4-1.4M14.4 5.6l1.4-1.4" />
    </Icon>
  ),
  dark: () => (
    <Icon>
      <path d="M16 11.8A6.5 6.5 0 0 1 8.2 4a6.5 6.5 0 1 0 7.8 7.8z" />
    </Icon>
  ),
};
