// What is said in words may be of any length, and whoever reads it by a contract, the API server too, refuses what is too long.

export function shortened(text: string, mostCharacters: number): string {
  return text.length <= mostCharacters ? text : `${text.slice(0, mostCharacters - 1)}…`;
}
