//! A panel's physics: its temperature, its power at the working point, and its fan.

/// Cell temperature at 800 W/m² and 20 degrees in the open, degrees Celsius (IEC 61215).
const NOCT_C: f64 = 45.0;
/// Time that a panel takes to warm to 63 %.
const WARMING_S: f64 = 420.0;
/// Share of power lost per degree above 25.
const POWER_PER_K: f64 = -0.004;
/// Share of voltage lost per degree above 25.
const VOLTAGE_PER_K: f64 = -0.003;
/// Voltage at the best working point under standard conditions.
const VOLTAGE_V: f64 = 18.0;
/// Open-circuit voltage over that at the best working point.
const OPEN_CIRCUIT: f64 = 1.22;
/// Below this the charger does not start, W/m².
const DARK_W_M2: f64 = 2.0;

/// What the power meter reads, truncated as its converter does; power is never above V times I.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Output {
    /// Volts, in steps of 0.01.
    pub voltage_v: f64,
    /// Amperes, in steps of 0.001.
    pub current_a: f64,
    /// Watts, in steps of 0.01.
    pub power_w: f64,
}

/// One panel with the fan that cools its charger.
#[derive(Debug)]
pub struct Panel {
    capacity_w: f64,
    cell_c: f64,
    fan_on: bool,
}

impl Panel {
    /// A cold panel of this power under standard conditions (1000 W/m², 25 degrees).
    pub fn new(capacity_w: f64) -> Self {
        Panel {
            capacity_w,
            cell_c: 15.0,
            fan_on: false,
        }
    }

    /// Moves on by one step; the power never exceeds `cap_w`.
    pub fn step(&mut self, plane_w_m2: f64, air_c: f64, step_s: f64, cap_w: f64) -> Output {
        let settled_c = air_c + (NOCT_C - 20.0) / 800.0 * plane_w_m2;
        self.cell_c += (settled_c - self.cell_c) * (1.0 - (-step_s / WARMING_S).exp());
        // Hysteresis, so that the fan does not chatter.
        self.fan_on = self.cell_c > if self.fan_on { 42.0 } else { 48.0 };
        if plane_w_m2 < DARK_W_M2 {
            return Output::default();
        }
        let warmer_k = self.cell_c - 25.0;
        let sun = plane_w_m2 / 1000.0;
        let best_w = self.capacity_w * sun * (1.0 + POWER_PER_K * warmer_k);
        // A diode's voltage goes with the logarithm of the light.
        let best_v = VOLTAGE_V * (1.0 + 0.05 * sun.ln()) * (1.0 + VOLTAGE_PER_K * warmer_k);
        let power_w = best_w.min(cap_w).max(0.0);
        // Power is held back by moving towards the open circuit.
        let held_back = 1.0 - power_w / best_w.max(1e-9);
        let voltage_v = floor_to(best_v * (1.0 + (OPEN_CIRCUIT - 1.0) * held_back), 100.0);
        let current_a = floor_to(power_w / voltage_v, 1000.0);
        Output {
            voltage_v,
            current_a,
            power_w: floor_to(voltage_v * current_a, 100.0),
        }
    }

    /// Whether the fan runs.
    pub fn fan_on(&self) -> bool {
        self.fan_on
    }
}

fn floor_to(value: f64, steps_per_unit: f64) -> f64 {
    (value * steps_per_unit).floor() / steps_per_unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(panel: &mut Panel, plane_w_m2: f64, air_c: f64) -> Output {
        (0..120)
            .map(|_| panel.step(plane_w_m2, air_c, 60.0, f64::INFINITY))
            .last()
            .unwrap()
    }

    #[test]
    fn standard_conditions_give_the_capacity() {
        // Air at -6.25 degrees holds the cell at 25 under full sun.
        let output = settled(&mut Panel::new(100.0), 1000.0, -6.25);
        assert!((output.power_w - 100.0).abs() < 0.2, "{output:?}");
        assert!((output.voltage_v - 18.0).abs() < 0.02, "{output:?}");
    }

    #[test]
    fn heat_costs_power_and_dim_light_costs_voltage() {
        let mut panel = Panel::new(100.0);
        let cool = settled(&mut panel, 1000.0, 0.0);
        let hot = settled(&mut panel, 1000.0, 40.0);
        assert!((hot.power_w / cool.power_w - 0.84).abs() < 0.03);
        let dim = settled(&mut panel, 50.0, 0.0);
        assert!(dim.voltage_v < cool.voltage_v);
        assert_eq!(settled(&mut panel, 0.0, 0.0), Output::default());
    }

    #[test]
    fn a_cap_raises_the_voltage_and_holds_the_power() {
        let mut panel = Panel::new(100.0);
        let free = settled(&mut panel, 900.0, 20.0);
        let capped = panel.step(900.0, 20.0, 60.0, 30.0);
        assert!(
            capped.power_w <= 30.0 && capped.power_w > 29.8,
            "{capped:?}"
        );
        assert!(capped.voltage_v > free.voltage_v);
    }

    #[test]
    fn the_fan_starts_hotter_than_it_stops() {
        let mut panel = Panel::new(100.0);
        settled(&mut panel, 800.0, 20.0);
        assert!(!panel.fan_on(), "45 degrees on the way up");
        settled(&mut panel, 1000.0, 25.0);
        assert!(panel.fan_on());
        settled(&mut panel, 800.0, 20.0);
        assert!(panel.fan_on(), "45 degrees on the way down");
        settled(&mut panel, 0.0, 20.0);
        assert!(!panel.fan_on());
    }
}
