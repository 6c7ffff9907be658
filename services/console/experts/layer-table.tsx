import { formatCount } from "../format.ts";
import { Scroller } from "../shell/scroller.tsx";
import type { LayerLoad } from "../../lib/expert-load/layer-load.ts";

/** The heat map's rows in figures. */
export function LayerTable(props: { layers: readonly LayerLoad[]; firstLayer: number; balancedness: readonly number[] | null }) {
  const { layers, firstLayer, balancedness } = props;
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
              {balancedness !== null && (
                <th scope="col" class="number">
                  Ranks' balancedness, of late
                </th>
              )}
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
                {balancedness !== null && <td class="number">{balancedness[i]?.toFixed(2) ?? "–"}</td>}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroller>
    </section>
  );
}
