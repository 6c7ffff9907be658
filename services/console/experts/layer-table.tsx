import { formatCount } from "../format.ts";
import { Scroller } from "../shell/scroller.tsx";
import type { LayerLoad } from "./expert-load.ts";

/** The heat map's rows in figures. */
export function LayerTable({ layers, firstLayer }: { layers: readonly LayerLoad[]; firstLayer: number }) {
  return (
    <section class="card pool" aria-labelledby="layers">
      <h2 id="layers">
        Layers <span>of the last one's tokens only those whose logits were wanted come to its experts</span>
      </h2>
      <Scroller label="Layers in figures">
        <table>
          <thead>
            <tr>
              <th scope="col">Layer</th>
              <th scope="col" class="number">
                Tokens × experts each
              </th>
              <th scope="col" class="number">
                Busiest expert
              </th>
              <th scope="col" class="number">
                Its load
              </th>
              <th scope="col" class="number">
                Unused experts
              </th>
            </tr>
          </thead>
          <tbody>
            {layers.map((layer, i) => (
              <tr key={i}>
                <th scope="row">{firstLayer + i}</th>
                <td class="number">{formatCount(layer.tokens)}</td>
                <td class="number">{layer.tokens === 0 ? "–" : layer.busiest}</td>
                <td class="number">{layer.tokens === 0 ? "–" : `${layer.highest.toFixed(2)}×`}</td>
                <td class="number">{formatCount(layer.unused)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroller>
    </section>
  );
}
